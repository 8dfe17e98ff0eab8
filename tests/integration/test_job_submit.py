"""job_submit.lua in a real slurmctld. The jobs are held: it is what was accepted that counts."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.request import SandboxRequest, find, without_request

pytestmark = pytest.mark.slurm

LARGE = 4 * 1024 * 1024 - 4096  # slurmctld takes scripts of up to 4 MiB


@pytest.fixture
def submit(cluster) -> Iterator[Callable[..., int]]:
    """Submit a held job as alice; it is cancelled when the test is over."""
    jobs: list[int] = []

    def submit_held(script: str | bytes, *options: str) -> int:
        jobs.append(cluster.sbatch("alice", script, "--hold", *options))
        return jobs[-1]

    yield submit_held
    if jobs:
        cluster.slurm("scancel", *map(str, jobs))


@pytest.fixture
def refuse(cluster) -> Callable[..., str]:
    """Submit a job that must be refused, and return what alice then reads."""

    def read_refusal(script: str | bytes, *options: str) -> str:
        ran = cluster.run_as("alice", ["sbatch", "--hold", *options], script)
        assert ran.returncode != 0, ran.stdout
        return ran.stderr

    return read_refusal


def request_of(cluster, job_id: int | str) -> SandboxRequest:
    request = find(cluster.job_field(job_id, cluster.request_field))
    assert request is not None
    return request


def said_of(cluster, job_id: int) -> str:
    """Return the job's comment and the request, in one field or two."""
    fields = dict.fromkeys(("Comment", cluster.request_field))
    return " ".join(cluster.job_field(job_id, field) for field in fields).strip()


# --- Jobs that are none of sbridge's ----------------------------------------------------------

PLAIN = {
    "plain": b"#!/bin/bash -l\n#SBATCH -n1\necho hello\n",
    "no newline at the end": b"#!/bin/sh\nexit 0",
    "directive behind a command": b"#!/bin/bash\n:\n#K8S_IMAGE=alpine\n",
    "directive in the last line": b"#!/bin/bash\n:\n#K8S_IMAGE=alpine",
    "blank before the #": b"#!/bin/bash\n #K8S_IMAGE=alpine\n:\n",
    "blank after the #": b"#!/bin/bash\n# K8S_IMAGE=alpine\n:\n",
    "commented out": b"#!/bin/bash\n##K8S_IMAGE=alpine\n:\n",
    "lower case": b"#!/bin/bash\n#k8s_image=alpine\n:\n",
    "in a here document": b"#!/bin/bash\ncat <<END\n#K8S_IMAGE=alpine\nEND\n",
    "a no-break space ends the header": b"#!/bin/bash\n\xc2\xa0\n#K8S_IMAGE=alpine\n:\n",
    "Latin-1": b"#!/bin/bash\n# caf\xe9\necho \xff\n",
    "control characters": b"#!/bin/bash\n\x01\x02\x7f\techo\x0b\n",
    "4 MiB": b"#!/bin/bash\n" + b"echo 12345678901234567890\n" * (LARGE // 26),
}


@pytest.mark.parametrize("script", PLAIN.values(), ids=PLAIN.keys())
def test_a_plain_job_is_untouched_byte_for_byte(cluster, submit, script):
    job = submit(script)
    assert cluster.batch_script(job).encode("utf-8", "surrogateescape") == script
    assert cluster.job_field(job, "Comment") == ""


def test_the_comment_of_a_plain_job_is_untouched(cluster, submit):
    job = submit("#!/bin/bash\n:\n", "--comment=see sbridge1? later ")
    assert cluster.job_field(job, "Comment") == "see sbridge1? later"
    assert cluster.batch_script(job) == "#!/bin/bash\n:\n"


def test_a_wrapped_command_is_untouched(cluster):
    command = ["sbatch", "-H", "--parsable", "--wrap", "echo '#K8S_IMAGE'"]
    job = int(cluster.as_user("alice", command))
    assert cluster.batch_script(job).startswith("#!/bin/sh\n")
    cluster.slurm("scancel", str(job))


# --- What becomes of a sandboxed job ----------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "interpreter"),
    [
        ("#!/bin/bash", "/bin/bash"),
        ("#!/bin/bash -l", "/bin/bash -l"),
        ("#! /bin/sh  ", "/bin/sh"),
        ("#!/usr/bin/env python3", "/usr/bin/env python3"),
        ("#!/usr/bin/perl -w -T", "/usr/bin/perl -w -T"),
        ("#!\t/bin/bash", "/bin/bash"),
        ("#!/no/such/sbridge-runner", "/no/such/sbridge-runner"),
    ],
)
def test_only_the_interpreter_line_is_rewritten(cluster, submit, line, interpreter):
    rest = "\n#K8S_IMAGE=alpine\n\n# caf\udce9 %s %d \\n\n:\n  exit 3"
    job = submit(line + rest)
    run = cluster.prefix / "bin/sbridge-run"
    assert cluster.batch_script(job) == f"#!{run} {interpreter}{rest}"


@pytest.mark.parametrize(
    "line", ["#!/opt/sbridge/bin/sbridge-run /bin/bash -l", "#!sbridge-run", "#! /x/sbridge-run"]
)
def test_a_line_that_names_sbridge_run_already_is_kept(cluster, submit, line):
    script = f"{line}\n#K8S_IMAGE=alpine\n:\n"
    job = submit(script)
    assert cluster.batch_script(job) == script
    assert request_of(cluster, job) == SandboxRequest(image="alpine")


def test_the_request_holds_every_directive(cluster, submit):
    job = submit(
        "#!/bin/bash\n"
        "#K8S_IMAGE=nas-hub.local:5407/lab/tools:1.2@sha256:0123abc\n"
        "#SBATCH -J x\n"
        "\n"
        "#K8S_WORKDIR=/workspace\n"
        "# a word in between\n"
        "#K8S_SCRIPT=/mnt/nas/scripts/x.py\n"
        "#K8S_RUNTIME=podman\n"
        "#\n"
        "python3 x.py\n"
    )
    assert request_of(cluster, job) == SandboxRequest(
        image="nas-hub.local:5407/lab/tools:1.2@sha256:0123abc",
        workdir="/workspace",
        script="/mnt/nas/scripts/x.py",
        runtime="podman",
    )


@pytest.mark.parametrize("own", ["hello", "two words", "ümläut 100% & more=so", "x sbridge1 ?"])
def test_the_users_own_comment_is_kept_before_the_request(cluster, submit, own):
    job = submit("#!/bin/bash\n#K8S_IMAGE=alpine\n:\n", f"--comment={own}")
    assert said_of(cluster, job) == f"{own} sbridge1?image=alpine"


def test_a_comment_in_the_script_is_kept_too(cluster, submit):
    job = submit("#!/bin/bash\n#SBATCH --comment='my own'\n#K8S_IMAGE=alpine\n:\n")
    assert without_request(cluster.job_field(job, "Comment")) == "my own"


def test_a_tag_is_kept_and_extended(cluster, submit):
    job = submit("#!/bin/bash\n#K8S_IMAGE=alpine\n:\n", "--comment=mine sbridge1?tag=4f21")
    assert request_of(cluster, job) == SandboxRequest(image="alpine", tag="4f21")
    assert without_request(cluster.job_field(job, "Comment")) == "mine"


def test_a_tag_alone_makes_the_job_one_of_sbridges(cluster, submit):
    job = submit("#!/bin/bash -l\n:\n", "--comment=sbridge1?tag=4f21")
    assert cluster.job_field(job, "Comment") == "sbridge1?tag=4f21"
    assert cluster.batch_script(job) == f"#!{cluster.prefix}/bin/sbridge-run /bin/bash -l\n:\n"


def test_what_the_command_line_says_wins_over_the_script(cluster, submit):
    job = submit("#!/bin/bash\n#K8S_IMAGE=alpine\n:\n", "--comment=sbridge1?image=debian&later=1")
    assert request_of(cluster, job) == SandboxRequest(image="debian", unknown={"later": "1"})


HOSTILE = [
    "/a b  c",
    "/\"double\" 'single' `back`",
    "/100%/%41%",
    "/a&b=c&image=evil",
    "/a?b#c",
    "/$HOME/$(id)/${x}",
    "/back\\slash\\n",
    "/ümläut/한글/🚀",
    "/~tilde/-dash_under.dot",
    "/ends with an equals=",
    "/sbridge1?image=evil",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_any_path_arrives_as_it_was_written(cluster, submit, value):
    job = submit(f"#!/bin/bash\n#K8S_WORKDIR={value}\n:\n", "--comment=own")
    assert request_of(cluster, job) == SandboxRequest(workdir=value)
    assert without_request(cluster.job_field(job, "Comment")) == "own"


def test_blanks_around_a_value_are_dropped(cluster, submit):
    job = submit("#!/bin/bash\n#K8S_IMAGE= \t alpine \t \n:\n")
    assert request_of(cluster, job).image == "alpine"


def test_every_task_of_an_array_has_the_request(cluster, submit):
    job = submit("#!/bin/bash\n#K8S_IMAGE=alpine\n:\n", "--array=1-3")
    cluster.scontrol("update", f"JobId={job}_2", "Nice=1")  # gives each task a record of its own
    for task in (f"{job}_1", f"{job}_2", f"{job}_3"):
        assert request_of(cluster, task) == SandboxRequest(image="alpine")


# --- What is refused, and how it is said ------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("K8S_IMGAE", "K8S_IMAGE"),
        ("K8S_image", "K8S_IMAGE"),
        ("K8S_IMAGES", "K8S_IMAGE"),
        ("K8S_WORK_DIR", "K8S_WORKDIR"),
        ("K8S_Script", "K8S_SCRIPT"),
        ("K8S_RUNTIM", "K8S_RUNTIME"),
    ],
)
def test_an_unknown_directive_is_refused_with_the_nearest_one(refuse, key, meant):
    said = refuse(f"#!/bin/bash\n#SBATCH -n1\n#{key}=alpine\n:\n")
    assert f"line 3: unknown directive {key}; did you mean {meant}?" in said


@pytest.mark.parametrize("key", ["K8S_", "K8S_GPU_COUNT", "K8S_" + "X" * 300_000])
def test_an_unknown_directive_that_is_near_to_none_gets_the_list(refuse, key):
    said = refuse(f"#!/bin/bash\n#{key}=1\n:\n")
    assert f"line 2: unknown directive {key[:60]}" in said
    assert "Known are K8S_IMAGE, K8S_WORKDIR, K8S_SCRIPT, K8S_RUNTIME" in said
    assert len(said) < 1000


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("#K8S_IMAGE=", "K8S_IMAGE= has no value"),
        ("#K8S_IMAGE=  ", "K8S_IMAGE= has no value"),
        ("#K8S_IMAGE", 'K8S_IMAGE must be followed by "="'),
        ("#K8S_IMAGE alpine", 'K8S_IMAGE must be followed by "="'),
        ("#K8S_IMAGE = alpine", 'K8S_IMAGE must be followed by "="'),
        ("#K8S_IMAGE=alpine # the small one", "is not an image reference"),
        ('#K8S_IMAGE="alpine"', "write it without quotes"),
        ("#K8S_IMAGE=--privileged", "is not an image reference"),
        ("#K8S_IMAGE=alpine;reboot", "is not an image reference"),
        ("#K8S_WORKDIR=workspace", "is not an absolute path"),
        ("#K8S_WORKDIR='/workspace'", "is not an absolute path"),
        ("#K8S_SCRIPT=~/x.py", "is not an absolute path"),
        ("#K8S_RUNTIME=podmn", "did you mean podman?"),
        ("#K8S_RUNTIME=docker", "Known are kubernetes, podman, apptainer, host"),
        ("#K8S_WORKDIR=/a\x1b[31mb", "has a control character in it"),
        ("#K8S_WORKDIR=/a\tb", "has a control character in it"),
        ("#K8S_WORKDIR=/caf\udce9", "is not UTF-8 text"),
        ("#K8S_WORKDIR=/\udced\udca0\udc80", "is not UTF-8 text"),  # a lone surrogate
        ("#K8S_WORKDIR=/\udcc0\udcaf", "is not UTF-8 text"),  # "/", encoded too long
        ("#K8S_WORKDIR=/" + "x" * 1024, "is longer than 1024 bytes"),
        ("#K8S_IMAGE=alpine\n#K8S_IMAGE=alpine", "K8S_IMAGE stands in line 4 already"),
    ],
)
def test_a_faulty_directive_is_refused_with_its_line(refuse, line, words):
    said = refuse(f"#!/bin/bash\n# first\n\n{line}\n:\n")
    number = 3 + len(line.splitlines())
    assert f"line {number}: " in said
    assert words in said
    assert "\x1b" not in said


def test_all_findings_are_told_at_once(refuse):
    said = refuse("#!/bin/bash\n#K8S_IMGE=alpine\n#K8S_WORKDIR=x\n#K8S_RUNTIME=\n:\n")
    assert [f"line {n}: " in said for n in (2, 3, 4)] == [True] * 3


def test_very_many_findings_are_cut_short(refuse):
    said = refuse("#!/bin/bash\n" + "#K8S_X=1\n" * 1000 + ":\n")
    assert said.count("unknown directive") == 10


@pytest.mark.parametrize(
    ("line", "words"),
    [("#!", "names no interpreter"), ("#!/" + "x" * 250, "bytes long, and a sandboxed job")],
)
def test_an_interpreter_that_cannot_be_rewritten_is_refused(refuse, line, words):
    said = refuse(f"{line}\n#K8S_IMAGE=alpine\n:\n")
    assert "line 1: " in said
    assert words in said


def test_more_than_slurm_has_room_for_is_refused_with_the_reason(cluster, refuse):
    script = "#!/bin/bash\n#K8S_WORKDIR=/" + "é" * 200 + "\n:\n"
    said = refuse(script, "--comment=" + "x" * 200)
    assert f"together with the job's own {cluster.request_field.lower()}" in said
    assert "Slurm has room for 1024" in said


# --- Large and hostile scripts ----------------------------------------------------------------

LARGE_SCRIPTS = {
    "body": b"#K8S_IMAGE=alpine\n:\n" + b"x\n" * (LARGE // 2),
    "directives in the body": b"#K8S_IMAGE=alpine\n:\n" + b"#K8S_IMAGE=a\n" * (LARGE // 13),
    "header of comments": b"#\n" * (LARGE // 2) + b"#K8S_IMAGE=alpine\n:\n",
    "header of blank lines": b"\n" * LARGE + b"#K8S_IMAGE=alpine\n:\n",
    "one blank line": b" " * LARGE + b"\n#K8S_IMAGE=alpine\n:\n",
    "blanks before each #": (b" " * 500 + b"#\n") * (LARGE // 502) + b"#K8S_IMAGE=alpine\n:\n",
}
LARGE_REFUSED = {
    "blanks inside a value": b"#K8S_IMAGE=a" + b" " * LARGE + b"b\n:\n",
    "a value of blanks": b"#K8S_IMAGE=" + b" " * LARGE + b"\n:\n",
    "repeated directives": b"#K8S_IMAGE=a\n" * (LARGE // 13) + b":\n",
    "a long name": b"#K8S_" + b"A" * LARGE + b"=1\n:\n",
}


@pytest.fixture
def spent(cluster) -> Callable[[], float]:
    """Tell how many seconds of a CPU slurmctld has spent since: what the Lua script holds it for.

    Unlike the time on the wall they do not grow with what else the machine does.
    """
    stat = Path(f"/proc/{cluster.pids()['slurmctld']}/stat")

    def seconds() -> float:
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    begin = seconds()
    return lambda: seconds() - begin


@pytest.mark.parametrize("rest", LARGE_SCRIPTS.values(), ids=LARGE_SCRIPTS.keys())
def test_a_script_of_4_mib_is_read_and_submitted_fast(cluster, submit, spent, rest):
    job = submit(b"#!/bin/bash\n" + rest)
    assert spent() < 1
    assert request_of(cluster, job) == SandboxRequest(image="alpine")


@pytest.mark.parametrize("rest", LARGE_REFUSED.values(), ids=LARGE_REFUSED.keys())
def test_a_faulty_script_of_4_mib_is_refused_fast(refuse, spent, rest):
    assert len(refuse(b"#!/bin/bash\n" + rest)) < 2000
    assert spent() < 1


def test_a_comment_without_an_end_does_not_slow_slurmctld_down(cluster, spent):
    comment = "a" * 100_000 + " b"
    command = ["sbatch", "-H", f"--comment={comment}"]
    assert cluster.run_as("alice", command, "#!/bin/bash\n#K8S_IMAGE=a\n").returncode != 0
    assert spent() < 1


# --- Changes after the submission -------------------------------------------------------------


@pytest.mark.parametrize("new", ["", "another text", "mine sbridge1?image=evil&tag=1"])
def test_a_user_who_changes_the_comment_keeps_the_request(cluster, submit, new):
    job = submit("#!/bin/bash\n#K8S_IMAGE=alpine\n:\n", "--comment=old sbridge1?tag=4f21")
    cluster.as_user("alice", ["scontrol", "update", f"job={job}", f"comment={new}"])
    assert request_of(cluster, job) == SandboxRequest(image="alpine", tag="4f21")
    own = without_request(cluster.job_field(job, "Comment"))
    assert own == without_request(new)


def test_the_comment_of_a_plain_job_may_become_anything(cluster, submit):
    job = submit("#!/bin/bash\n:\n", "--comment=old")
    cluster.as_user("alice", ["scontrol", "update", f"job={job}", "comment=new"])
    assert cluster.job_field(job, "Comment") == "new"


def test_other_changes_leave_the_comment_alone(cluster, submit):
    job = submit("#!/bin/bash\n#K8S_IMAGE=alpine\n:\n", "--comment=mine")
    cluster.as_user("alice", ["scontrol", "update", f"job={job}", "timelimit=3"])
    assert said_of(cluster, job) == "mine sbridge1?image=alpine"


# --- A fault in the Lua script itself ---------------------------------------------------------


@pytest.fixture
def change_lua(cluster) -> Iterator[Callable[[str, str], None]]:
    """Replace a piece ("": the whole) of the installed job_submit.lua, for one test."""
    path: Path = cluster.prefix / "share/slurm-conf/job_submit.lua"
    original = path.read_text()

    def put(text: str) -> None:
        path.with_suffix(".new").write_text(text)
        # slurmctld reads a script again that is younger than the last one, in whole seconds.
        soon = max(time.time(), path.stat().st_mtime) + 2
        os.utime(path.with_suffix(".new"), (soon, soon))
        path.with_suffix(".new").replace(path)

    def change(old: str, new: str) -> None:
        assert old in original
        put(original.replace(old, new) if old else new)

    yield change
    put(original)


SANDBOXED = "#!/bin/bash -l\n#K8S_IMAGE=alpine\n:\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("local REQUEST_FIELD = ", "local REQUEST_FIELD = nil --"),
        ("local REQUEST_FIELD = ", "local REQUEST_FIELD = {} --"),
        ("local function read_header(script)\n", "local function read_header()\n"),
        ("job_desc[field] = value", "job_desc[field] = field == 'script' and {} or value"),
    ],
    ids=["reading fails", "a wrong type", "parsing fails", "setting fails"],
)
def test_an_internal_error_lets_the_job_through_unchanged(cluster, submit, change_lua, old, new):
    log = cluster.logs / "slurmctld.log"
    before = log.stat().st_size
    change_lua(old, new)
    job = submit(SANDBOXED, "--comment=own")
    assert cluster.batch_script(job) == SANDBOXED
    assert cluster.job_field(job, "Comment") == "own"
    assert "let through unchanged" in log.read_text()[before:]


def test_a_script_that_does_not_even_load_leaves_the_last_good_one_in_force(
    cluster, submit, change_lua
):
    submit(SANDBOXED)  # makes slurmctld read the good one
    change_lua("function slurm_job_submit(", "function slurm_job_submit((")
    job = submit(SANDBOXED)
    assert request_of(cluster, job) == SandboxRequest(image="alpine")
    assert cluster.batch_script(submit("#!/bin/sh\n:\n")) == "#!/bin/sh\n:\n"


def test_a_site_may_call_it_from_a_job_submit_lua_of_its_own(cluster, submit, change_lua, tmp_path):
    shipped = tmp_path / "shipped.lua"
    shutil.copy(cluster.prefix / "share/slurm-conf/job_submit.lua", shipped)
    for path in (shipped, *shipped.parents):
        path.chmod(path.stat().st_mode | 0o055)
    change_lua(
        "",
        f"""
        dofile("{shipped}")
        local sbridge_job_submit, sbridge_job_modify = slurm_job_submit, slurm_job_modify
        function slurm_job_submit(job_desc, part_list, submit_uid)
            job_desc.admin_comment = "seen by the site"
            return sbridge_job_submit(job_desc, part_list, submit_uid)
        end
        function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
            return sbridge_job_modify(job_desc, job_rec, part_list, modify_uid)
        end
        return slurm.SUCCESS
        """,
    )
    job = submit(SANDBOXED)
    assert request_of(cluster, job) == SandboxRequest(image="alpine")
    assert cluster.job_field(job, "AdminComment") == "seen by the site"
    cluster.as_user("alice", ["scontrol", "update", f"job={job}", "comment=new"])
    assert said_of(cluster, job) == "new sbridge1?image=alpine"
