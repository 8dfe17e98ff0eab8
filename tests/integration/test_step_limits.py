"""What a step cannot take into its sandbox is an error that its user reads."""

from urllib.parse import quote

import pytest

from tests.integration.submitted_job import script

pytestmark = [pytest.mark.slurm, pytest.mark.podman]

DEMO = "localhost/sbridge-demo:latest"
LARGER = 64 * 1024 * 1024 + 1


@pytest.fixture
def step(cluster):
    """Run a command as a step that may enter a sandbox."""
    request = f"--comment=sbridge1?image={quote(DEMO, safe='')}"

    def step(*argv):
        return cluster.run_as("alice", ["srun", "--quiet", "--mem=300", request, *argv])

    return step


def open_files(count):
    """Return a bash command that enters with so many files open."""
    opened = f"for n in $(seq {count - 3}); do exec {{fd}}</dev/null; done"
    look = "ls /proc/self/fd | wc -l"
    return "bash", "-c", f"{opened}; exec sbridge-run /bin/sh -c '{look}'"


def test_as_many_files_as_can_be_passed_stay_open(step):
    ended = step(*open_files(62))
    assert (ended.returncode, ended.stdout) == (0, "63\n"), ended.stderr  # and the one of ls


def test_more_open_files_are_an_error(step):
    ended = step(*open_files(63))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "sbridge: this step has 63 open files, and 62 can go into a sandbox" in ended.stderr


@pytest.mark.parametrize("size", [1, LARGER])
def test_a_script_that_is_too_large_is_an_error_and_not_cut(cluster, job, size):
    """Slurm takes no such script by default; the spooled one is made larger here."""
    body = '[ "$1" ] && { echo began; exit; }\necho ready; sleep 987\n'
    ran = job(script(body, DEMO), "--mem=300").wait_to_write()
    node = cluster.job_field(ran.job_id, "BatchHost")
    (path,) = cluster.state.glob(f"spool/slurmd-{node}/job{ran.job_id:05}/slurm_script")
    with path.open("ab") as file:
        file.write(b"#" * size)
    again = (f"{cluster.prefix}/bin/sbridge-run", "/bin/sh", str(path), "again")
    srun = ("srun", "--quiet", f"--jobid={ran.job_id}", "--overlap", "--mem=0", *again)
    ended = cluster.run_as("alice", srun)
    cluster.scancel(ran.job_id)
    if size < LARGER:
        assert (ended.returncode, ended.stdout) == (0, "began\n"), ended.stderr
    else:
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "entered: the script is larger than 64 MiB" in ended.stderr
