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


# A batch script that enters by itself, once it has become larger; its owner may write to it.
GROWS = """[ "$1" ] && { echo began; exit; }
head -c "$SIZE" /dev/zero | tr '\\0' '#' >>"$0"
exec sbridge-run /bin/sh "$0" again
"""


@pytest.mark.parametrize(("size", "end"), [(LARGER, ("FAILED", "1:0")), (1, ("COMPLETED", "0:0"))])
def test_a_script_that_is_too_large_is_an_error_and_not_cut(job, size, end):
    request = f"--comment=sbridge1?image={quote(DEMO, safe='')}"
    ran = job(script(GROWS), request, "--mem=300", f"--export=ALL,SIZE={size}")
    assert ran.end == end, ran.err
    assert (ran.out == "began\n") == (size != LARGER)
    assert (
        "sbridge: the sandbox could not be entered: the script is larger than 64 MiB" in ran.err
    ) == (size == LARGER), ran.err
