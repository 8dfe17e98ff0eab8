"""What #K8S_SCRIPT and #K8S_WORKDIR do, with an image and without, by sbatch and by the NAS."""

import json

import pytest

from bridge.request import find
from tests.integration.running_cluster import own_stderr

pytestmark = [pytest.mark.slurm, pytest.mark.podman]

DEMO = "#K8S_IMAGE=localhost/sbridge-demo:latest\n"
BUSYBOX = "#K8S_IMAGE=localhost/busybox:latest\n"
IMAGES = {"in an image": DEMO, "on the node": ""}
TELL = '#!/bin/bash\nprintf "%s|" "$K8S_SCRIPT" "$0" "$@"; exit 5\n'


@pytest.fixture
def folder(shared_dir):
    """A new folder of alice's that sandboxes see too."""
    return shared_dir("alice")


@pytest.fixture
def run(cluster, folder):
    """Have alice submit a script and wait for its end; returns its exit code, stdout, stderr."""

    def run(text, *arguments):
        script = folder / "job.sh"
        script.write_text(f"#!/bin/bash -l\n#SBATCH --mem=200\n{text}")
        streams = ["-o", str(folder / "out"), "-e", str(folder / "err")]
        command = ["sbatch", "--parsable", *streams, str(script), *arguments]
        job_id = int(cluster.as_user("alice", command))
        cluster.wait_job(job_id)
        ended = cluster.job_field(job_id, "ExitCode")
        return ended, (folder / "out").read_text(), own_stderr(folder / "err").decode()

    return run


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_a_job_without_a_command_runs_the_named_file(run, folder, image):
    file = folder / "이름 with blanks"
    file.write_text(TELL)  # not executable, as on many a NAS
    ended = run(f"{image}#K8S_SCRIPT={file}\n# nothing else\n", "a b", "", "$x")
    assert ended == ("5:0", f"{file}|{file}|a b||$x|", "")


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_a_job_with_a_command_finds_the_named_file_in_its_environment(run, folder, image):
    file = folder / "x.sh"
    file.write_text(TELL)
    ended = run(f'{image}#K8S_SCRIPT={file}\necho first\nsh "$K8S_SCRIPT" 1 2>&1\n')
    assert ended == ("5:0", f"first\n{file}|{file}|1|", "")


def test_a_file_for_bash_runs_with_sh_in_an_image_that_has_no_bash(run, folder):
    file = folder / "x.sh"
    file.write_text(TELL)
    code, out, err = run(f"{BUSYBOX}#K8S_SCRIPT={file}\n")
    assert (code, out) == ("5:0", f"{file}|{file}|")
    assert "the image has no /bin/bash; using /bin/sh" in err


def test_python_runs_a_file_that_says_nothing_else(run, folder):
    file = folder / "x.py"
    file.write_text("import sys\nprint(sys.argv[1:], sys.stdin.read())\n")
    assert run(f"#K8S_SCRIPT={file}\n", "a") == ("0:0", "['a'] \n", "")
    code, out, err = run(f"{DEMO}#K8S_SCRIPT={file}\n")
    assert (code, out) == ("127:0", "")
    assert f"K8S_SCRIPT={file}: needs python3" in err


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_a_file_that_cannot_be_run_fails_the_job_and_says_why(cluster, run, folder, image):
    code, _, err = run(f"{image}#K8S_SCRIPT=/srv/no such\n")
    assert code == "127:0"
    assert err.startswith("sbridge: K8S_SCRIPT=/srv/no such: No such file")
    file = folder / "x.sh"
    file.write_text(TELL)
    file.chmod(0o600)  # root's
    code, _, err = run(f"{image}#K8S_SCRIPT={file}\n")
    assert (code, err) == ("126:0", f"sbridge: K8S_SCRIPT={file}: Permission denied\n")
    assert cluster.drained_nodes() == {}


def test_the_summary_of_a_sandboxed_job_says_why_the_file_was_not_run(cluster):
    text = f"#!/bin/bash\n#SBATCH --mem=200\n{DEMO}#K8S_SCRIPT=/no/such\n"
    summary = summary_of(cluster, cluster.sbatch("alice", text, "-o", "/dev/null"))
    assert (summary["exit_code"], summary["script"]) == (127, "/no/such")
    assert [line.split(";")[0] for line in summary["warnings"]] == [
        "K8S_SCRIPT=/no/such: No such file or directory"
    ]


def test_a_dropped_file_of_directives_runs_the_named_file_and_the_summary_names_it(cluster, folder):
    file = folder / "실험.sh"
    file.write_text('echo done > "$SBRIDGE_OUTPUTS/done"; echo "$0"\n')
    text = f"#!/bin/bash\n#SBATCH --mem=200\n{DEMO}#K8S_SCRIPT={file}\n"
    cluster.drop("alice", "지시문 (1).sh", text)
    summary = summary_of(cluster, job_of(cluster, "지시문 (1).sh"))
    results = cluster.results / str(summary["job_id"])
    assert (results / "stdout.log").read_text() == f"{file}\n"
    assert (results / "outputs/done").read_text() == "done\n"
    assert (summary["exit_code"], summary["script"]) == (0, str(file))
    assert summary["job_file"] == "지시문 (1).sh"
    text = (results / "job_summary.txt").read_text(encoding="utf-8")
    assert f"Named by K8S_SCRIPT: {file}\n" in text
    assert "Job file: 지시문 (1).sh\n" in text


def test_without_an_image_the_working_directory_is_obeyed(run, folder):
    assert run(f"#K8S_WORKDIR={folder}\npwd\n") == ("0:0", f"{folder}\n", "")
    code, out, err = run("#K8S_WORKDIR=/no/such\npwd\n")
    place = out.strip()
    said = f"sbridge: working directory /no/such: No such file or directory; using {place}\n"
    assert (code, err) == ("0:0", said)


@pytest.mark.parametrize(
    ("lines", "has_room"),
    [
        ("", True),
        (f"#SBATCH --comment={'x' * 500}\n", False),
        (f"#K8S_WORKDIR=/{'x' * 500}\n", False),
    ],
    ids=["alone", "beside a long comment", "beside a long directive"],
)
def test_a_long_name_of_a_dropped_file_never_costs_the_submission(cluster, lines, has_room):
    name = f"{'가' * 70} {has_room} {len(lines)}.sh"
    cluster.drop("alice", name, f"#!/bin/bash\n#SBATCH --hold\n{lines}{DEMO}:\n")
    job_id = job_of(cluster, name)
    asked = find(cluster.job_field(job_id, cluster.request_field))
    cluster.scancel(job_id)
    assert (asked.file, asked.image) == (name if has_room else "", "localhost/sbridge-demo:latest")
    assert asked.tag


def job_of(cluster, name):
    """Wait until the one dropped file of this name is a job; return the job's id."""

    def accepted():
        return [path for path in cluster.processed.iterdir() if path.name.endswith(f"_{name}")]

    cluster.wait_for(accepted, what=f"{name} in processed/")
    return int(accepted()[0].name.split("_")[0])


def summary_of(cluster, job_id):
    """Wait for the job's results; return their summary."""
    summary = cluster.results / str(job_id) / "job_summary.json"
    cluster.wait_for(summary.exists, 60, what=f"results of job {job_id}")
    return json.loads(summary.read_text(encoding="utf-8"))
