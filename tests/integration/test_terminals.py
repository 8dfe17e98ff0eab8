"""`srun --pty` in a sandbox is what it is natively: a terminal with job control."""

import contextlib
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.integration.running_cluster import Cluster
from tests.integration.slurm_on_kubernetes import ALPINE, BASH
from tests.integration.typed_terminal import CTRL_C, CTRL_Z, TypedTerminal

pytestmark = pytest.mark.slurm

PROMPT = r"[$#] $"
SHELL = ("/bin/bash", "--norc", "--noediting", "-i")


@dataclass
class Place:
    """Where steps run: a cluster and two of its images, one with bash, one with busybox' sh."""

    cluster: Cluster
    bash: str
    busybox: str

    def request(self, image: str) -> str:
        return f"--comment=sbridge1?image={quote(image, safe='')}"


@pytest.fixture(
    params=[
        pytest.param("cluster", marks=pytest.mark.podman, id="podman"),
        pytest.param("slurm_on_kubernetes", marks=pytest.mark.kubernetes, id="kubernetes"),
    ]
)
def place(request):
    """Give a cluster of either runtime; nobody's job is left on it."""
    cluster = request.getfixturevalue(request.param)
    if request.param == "cluster":
        yield Place(cluster, "localhost/sbridge-demo:latest", "localhost/busybox:latest")
    else:
        yield Place(cluster, BASH, ALPINE)
    cluster.slurm("scancel", "--partition=main")
    cluster.wait_for(lambda: not cluster.sandboxes())
    assert cluster.drained_nodes() == {}


@pytest.fixture
def at_terminal(place):
    """Start a command as alice at a terminal of its own."""
    made = []

    def at_terminal(*argv):
        command = [str(place.cluster.script), "as", "alice", *argv]
        made.append(TypedTerminal(command, place.cluster.environment))
        return made[-1]

    yield at_terminal
    for terminal in made:
        terminal.end()


@pytest.fixture
def shells(place, at_terminal):
    """Start bash by `srun --pty`, natively and in a sandbox; returns both when they prompt."""

    def shells():
        srun = ("srun", "--quiet", "--mem=100", "--pty")
        native = at_terminal(*srun, *SHELL)
        sandboxed = at_terminal(*srun, place.request(place.bash), "sbridge-run", *SHELL)
        for shell in (native, sandboxed):
            shell.read_to(PROMPT, 60)
        return native, sandboxed

    return shells


def run(shell, command, pattern):
    """Have a shell run a command and return what it then says, as `pattern` has it."""
    shell.type(f"{command}\n")
    found = shell.read_to(rf"(?:^|\n)({pattern})\r?\n")[1]
    shell.read_to(PROMPT)
    return found


def sleep_in_foreground(place, shell, seconds):
    shell.type(f"sleep {seconds}\n")
    place.cluster.wait_for(lambda: is_in_foreground(seconds))


def is_in_foreground(seconds):
    """Whether the terminal is this sleep's; a shell says `fg` a moment before."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if path.joinpath("cmdline").read_bytes() == f"sleep\0{seconds}\0".encode():
                fields = path.joinpath("stat").read_text().rpartition(")")[2].split()
                group, foreground = fields[2], fields[5]
                return group == foreground
    return False


def interrupted_and_stopped(place, shell, sleep):
    """Type Ctrl-C at a program and Ctrl-Z at the next; return what the shell says of each."""
    sleep_in_foreground(place, shell, sleep)
    shell.type(CTRL_C)
    shell.read_to(PROMPT)
    ended = run(shell, "echo ended=$?", r"ended=\d+")
    sleep_in_foreground(place, shell, sleep)
    shell.type(CTRL_Z)
    stopped = shell.read_to(r"Stopped +sleep")[0]
    shell.read_to(PROMPT)
    return [ended, stopped]


def test_ctrl_c_and_ctrl_z_reach_the_foreground_and_jobs_are_controlled(place, shells):
    seen = []
    for number, shell in enumerate(shells()):
        sleep = 70001 + number
        told = [run(shell, "tty >/dev/null; echo tty=$?", r"tty=\d+")]
        told += interrupted_and_stopped(place, shell, sleep)
        told.append(run(shell, "jobs", r"\[1\]\+  Stopped.*").strip().replace(str(sleep), "N"))
        shell.type("bg\n")
        shell.read_to(PROMPT)
        told.append(run(shell, "jobs", r"\[1\]\+  Running.*").strip().replace(str(sleep), "N"))
        shell.type("fg\n")
        shell.read_to(rf"\nsleep {sleep}\r\n")
        place.cluster.wait_for(lambda sleep=sleep: is_in_foreground(sleep))
        shell.type(CTRL_C)
        shell.read_to(PROMPT)
        assert not place.cluster.processes(f"sleep\0{sleep}")
        shell.type("exit 7\n")
        told.append(shell.wait())
        seen.append(told)
    assert seen[1] == seen[0]
    assert seen[1][:3] == ["tty=0", "ended=130", "Stopped                 sleep"]
    assert seen[1][-1] == 7


def test_a_change_of_the_windows_size_reaches_the_foreground(shells):
    for shell in shells():
        assert run(shell, "stty size", r"\d+ \d+") == "30 100"
        shell.type("sh -c 'trap \"stty size; exit\" WINCH; echo on; while :; do sleep 0.1; done'\n")
        shell.read_to(r"\non\r\n")
        shell.resize(41, 123)
        assert shell.read_to(r"\d+ \d+")[0] == "41 123"
        shell.read_to(PROMPT)
        shell.type("exit\n")
        assert shell.wait() == 0


def test_the_terminal_has_a_name_that_opens_it(shells):
    seen = []
    for shell in shells():
        name = run(shell, "tty", r"/dev/\S+")
        run(shell, "echo by''name >$(tty); echo by''ctty >/dev/tty", r"byname\r\nbyctty")
        seen.append(run(shell, f"stat -c %a-%u-%t:%T {name}", r"\d+-\d+-\w+:\w+"))
        shell.type("exit\n")
        assert shell.wait() == 0
    native, sandboxed = (each.rpartition(":") for each in seen)  # mode, owner, kind : number
    assert sandboxed[0] == native[0]
    assert sandboxed[2] != native[2]


def test_closing_the_window_ends_the_job(place, shells):
    for number, shell in enumerate(shells()):
        sleep_in_foreground(place, shell, 70011 + number)
        shell.close()
    left = lambda: [place.cluster.processes(f"sleep\0{n}") for n in (70011, 70012)]  # noqa: E731
    place.cluster.wait_for(lambda: left() == [[], []], 60)
    place.cluster.wait_for(lambda: not place.cluster.slurm("squeue", "-h"), 60)
    place.cluster.wait_for(lambda: not place.cluster.sandboxes())


def test_srun_in_the_shell_gives_a_step_a_terminal_of_its_own(place, shells):
    seen = []
    for number, shell in enumerate(shells()):
        sleep = 70041 + number
        shell.type(f"srun --overlap --pty {' '.join(SHELL)}\n")
        shell.read_to(PROMPT)
        told = [run(shell, "stty size; tty >/dev/null; echo tty=$?", r"30 100\r\ntty=\d")]
        shell.resize(41, 123)
        place.cluster.wait_for(lambda shell=shell: run(shell, "stty size", r"\d+ \d+") == "41 123")
        told += interrupted_and_stopped(place, shell, sleep)
        shell.type("kill -9 %1; wait -f %1; exit 6\n")  # bash ends with no job stopped
        shell.read_to(PROMPT)
        told.append(run(shell, "echo code=$? step=$SLURM_STEP_ID", r"code=\d+ step=\d+"))
        seen.append(told)
    assert seen[1] == seen[0]
    assert seen[1][1:3] == ["ended=130", "Stopped                 sleep"]


@pytest.fixture
def counter(place):
    """Make files: a task counts in the first, srun shows in the second, the third ends it."""
    folder = Path(tempfile.mkdtemp(prefix="test-", dir=place.cluster.home("alice")))
    place.cluster.give(folder, user="alice", mode=0o755)
    yield folder / "counted", folder / "shown", folder / "over"
    shutil.rmtree(folder)


def lines_of(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_ctrl_z_stops_srun_whose_tasks_go_on(place, shells, counter):
    counted, shown, over = counter
    loop = f"while [ ! -e {over} ]; do echo tick; echo tick >>{counted}; sleep 0.1; done"
    for shell in shells():
        for path in counter:
            path.unlink(missing_ok=True)
        shell.type(f"srun --overlap --unbuffered /bin/bash -c '{loop}' >{shown}\n")
        place.cluster.wait_for(lambda: lines_of(shown) > 2)
        shell.type(CTRL_Z)
        shell.read_to(r"Stopped +srun")
        shell.read_to(PROMPT)
        goes_on(place, counted)  # what was on its way has come
        before = lines_of(shown)
        goes_on(place, counted)
        assert lines_of(shown) == before
        shell.type("fg\n")
        place.cluster.wait_for(lambda before=before: lines_of(shown) > before + 10)
        over.touch()
        shell.read_to(PROMPT)
        shell.type("exit 0\n")
        assert shell.wait() == 0


def goes_on(place, counted):
    """Wait for what the task counts in a second or more."""
    before = lines_of(counted)
    place.cluster.wait_for(lambda: lines_of(counted) > before + 10)


def test_the_shell_of_busybox_has_job_control(place, at_terminal):
    request = place.request(place.busybox)
    srun = ("srun", "--quiet", "--mem=100", "--pty", request, "sbridge-run", "/bin/sh", "-i")
    shell = at_terminal(*srun)
    said = shell.read_to(r"(?s)(.*)[$#] (\x1b\[6n)?$", 60)[1]
    assert "job control" not in said
    sleep_in_foreground(place, shell, 70021)
    shell.type(CTRL_Z)
    shell.read_to(r"Stopped +sleep 70021")
    shell.type("fg\n")
    shell.read_to(r"\nsleep 70021")
    place.cluster.wait_for(lambda: is_in_foreground(70021))
    shell.type(CTRL_C)
    place.cluster.wait_for(lambda: not place.cluster.processes("sleep\00070021"))
    shell.type("tty\n")
    shell.read_to(r"\n/dev/console\r\n")
    shell.type("exit 3\n")
    assert shell.wait() == 3


def test_steps_of_an_allocation_have_a_terminal_each_and_leave_nothing(place, at_terminal):
    allocation = at_terminal("salloc", "--mem=100", place.request(place.bash), *SHELL)
    allocation.read_to(r"Granted job allocation")
    allocation.read_to(PROMPT, 60)
    job_id = run(allocation, "echo job=$SLURM_JOB_ID", r"job=\d+")[4:]
    first = allocation
    first.type(f"srun --overlap --pty sbridge-run {' '.join(SHELL)}\n")
    first.read_to(PROMPT, 60)
    overlap = ("srun", "--quiet", f"--jobid={job_id}", "--overlap", "--mem=0")
    second = at_terminal(*overlap, "--pty", "sbridge-run", *SHELL)
    second.read_to(PROMPT)
    second.resize(50, 90)

    assert run(first, "tty; echo a''b >/dev/console", r"/dev/console\r\nab")
    assert run(second, "tty; echo c''d >/dev/console", r"/dev/console\r\ncd")
    assert run(first, "stty size", r"\d+ \d+") == "30 100"
    place.cluster.wait_for(lambda: run(second, "stty size", r"\d+ \d+") == "50 90")

    third = (*overlap, "sbridge-run", "/bin/bash", "-c")
    look = "grep -c 'pts.* devpts' /proc/self/mountinfo; test -c /dev/console; echo $?; tty"
    without = place.cluster.run_as("alice", [*third, look])
    assert re.fullmatch(r"1\n1\nnot a tty\n", without.stdout), without

    sleep_in_foreground(place, first, 70031)
    first.type(CTRL_C)
    first.read_to(PROMPT)
    first.type("exit 4\n")
    first.read_to(PROMPT)
    assert run(first, "echo code=$?", r"code=\d+") == "code=4"  # salloc's own shell
    second.type("exit 5\n")
    assert second.wait() == 5
    first.type("exit\n")
    assert first.wait() == 0
