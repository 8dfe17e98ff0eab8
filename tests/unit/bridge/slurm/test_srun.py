"""srun's tasks enter sandboxes: sbridge-run stands before each program, and nowhere else."""

import pytest

from bridge import task
from bridge.slurm import srun

MARK = ["/opt/run", "--task=/here"]


def wrapped(*words, is_at_home=True, folders=("/here", "/else", "/here/d")):
    tasks = srun.Tasks(
        "/opt/run", "/here", is_at_home, folders.__contains__, lambda path, wrap: f"wrapped {path}"
    )
    return srun.wrap(words, tasks)


@pytest.mark.parametrize(
    ("options", "program"),
    [
        ([], ["true"]),
        (["-n4"], ["sh", "-c", "a b", ""]),
        (["-n", "4", "--label", "--mem=1"], ["x", "-n", "--", "--help"]),
        (["-luN", "2", "--nodel", "n1", "--pty"], ["bash"]),
        (["--exclusive", "--"], ["-x"]),
    ],
)
def test_the_program_is_the_first_word_that_is_no_option(options, program):
    name = f"--job-name={program[0]}"
    assert wrapped(*options, *program) == [name, *options, *MARK, *program]


def test_every_component_of_several_is_wrapped():
    one, two = wrapped("-n1", "/bin/a", "x", ":", "-n2", "b"), ["-n2", *MARK, "b"]
    assert one == ["--job-name=a", "-n1", *MARK, "/bin/a", "x", ":", "--job-name=b", *two]


@pytest.mark.parametrize("words", [[], ["-n1"], ["--version"], ["-V", "x"], ["--help", "x"]])
def test_without_a_program_to_run_nothing_changes(words):
    assert wrapped(*words) == words


@pytest.mark.parametrize(
    ("words", "kept", "directory"),
    [
        (["-D", "d"], ["-D", "d"], "/here/d"),
        (["--chdir=/else"], ["--chdir=/else"], "/else"),
        (["--chdir", "/inside", "-l"], ["-l"], "/inside"),
        (["-lD", "/inside"], ["-lD", "/inside"], "/inside"),
    ],
)
def test_a_directory_that_the_node_lacks_is_named_to_the_task_alone(words, kept, directory):
    expected = ["--job-name=x", *kept, "/opt/run", f"--task={directory}", "x"]
    assert wrapped(*words, "x") == expected


def test_a_relative_directory_is_not_left_to_an_srun_that_is_elsewhere():
    assert "-D" not in wrapped("-D", "d", "x", is_at_home=False)


def test_a_file_of_programs_is_replaced_by_a_wrapped_one():
    assert wrapped("--multi-prog", "d/f", "a") == [
        "--job-name=f", "--multi-prog", "wrapped d/f", "a",
    ]  # fmt: skip
    assert srun.program_files(["-n2", "--multi-prog", "f", ":", "--multi", "g"]) == ["f", "g"]


def test_the_programs_of_a_file_are_wrapped_once_each():
    text = "# 0 no\n0-1,3  echo '%t' \\\n  more\n\n * b\n2\n"
    assert srun.wrap_programs(text, "R T") == (
        "# 0 no\n0-1,3 R T echo '%t' \\\n  more\n\n* R T b\n2\n"
    )


def test_a_broadcast_of_the_program_is_refused():
    with pytest.raises(srun.UnsupportedError, match="--bcast"):
        wrapped("--bcast=/tmp/x", "x")


@pytest.mark.parametrize(
    ("words", "environment", "job"),
    [
        (["x"], {b"SLURM_JOB_ID": b"7"}, "7"),
        (["x"], {b"SLURM_JOBID": b"7"}, "7"),
        (["--jobid=8", "x"], {b"SLURM_JOB_ID": b"7"}, "8"),
        (["x", "--jobid=8"], {}, ""),
    ],
)
def test_the_job_is_the_named_or_the_inherited_one(words, environment, job):
    assert srun.job_of(words, environment) == job


@pytest.mark.parametrize("words", [[], ["-n1", "x", "--export=A"], ["-x", "--export", "--", "x"]])
def test_what_is_no_export_option_is_left_alone(words):
    assert srun.with_exports(words, lambda value: "changed") == words


def test_the_exports_of_every_component_are_rewritten():
    words = ["-l", "--export=A,B", "x", ":", "-n2", "--export", "C", "x", "--export=D"]
    assert srun.with_exports(words, lambda value: f"{value},E") == [
        *("-l", "--export=A,B,E", "x", ":"),
        *("-n2", "--export", "C,E", "x", "--export=D"),
    ]


@pytest.mark.parametrize("path", ["/", "/a b", "/한글", "/%t'\"\\=41", "/x\udcff"])
def test_a_directory_survives_its_mark_without_a_word_that_needs_quoting(path):
    word = task.MARK + task.quote(path)
    assert not set(word) - set(map(chr, range(0x21, 0x7F))) - {"%"}
    assert not set("%'\"\\ ") & set(word)


@pytest.mark.parametrize(
    ("arguments", "is_named"),
    [
        (["-n2", "prog", "-J", "x"], False),
        (["-Jx", "prog"], True),
        (["a", ":", "--job-name=x", "b"], True),
    ],
)
def test_whether_a_step_is_named_is_found_in_any_component(arguments, is_named):
    assert srun.is_named(arguments) == is_named


def test_files_of_host_names_are_found_and_rewritten_and_names_of_hosts_are_not():
    words = ["-w", "n1,n2", "a", ":", "-lw/tmp/h", "b", "-w/x", ":", "--nodefile", "h", "c"]
    assert srun.host_files(words, {}) == ["/tmp/h", "h"]
    assert srun.host_files(["a"], {b"SLURM_HOSTFILE": b"/\xff"}) == ["/\udcff"]
    assert srun.with_host_files(words, lambda path: f"<{path}>") == [
        *("-w", "n1,n2", "a", ":", "-lw</tmp/h>", "b", "-w/x", ":", "--nodefile", "<h>", "c"),
    ]


@pytest.mark.parametrize(
    ("words", "directory"),
    [([], "/here/below"), (["-D", "/other"], "/other"), (["-Dx"], "/here/x")],
)
def test_the_environments_directory_counts_where_none_is_named(words, directory):
    tasks = srun.Tasks("/run", "/here", True, lambda _: True, lambda path, _: path, "below")
    assert task.MARK + task.quote(directory) in srun.wrap([*words, "x"], tasks)
