"""scripts/dev-cluster itself, beside the cluster of the other tests: two at once must do."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.running_cluster import checked, run

pytestmark = pytest.mark.slurm

SLURM_DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld")
# A job that ignores every signal it can, and whose children try to get away.
STUBBORN = """#!/bin/bash
trap '' TERM INT HUP USR1 USR2
setsid sleep {seconds} &
(setsid sh -c 'trap "" TERM; sleep {seconds}; :' &)
env -i setsid sleep {seconds} &
touch started
while :; do sleep 1; done
"""


USUAL = {"nodes": 1, "runtime": "host", "proctrack": "cgroup"}


@pytest.fixture(scope="module")
def own(new_cluster):
    """A second cluster, small, that these tests may break."""
    cluster = new_cluster()
    cluster.up(**USUAL)
    return cluster


@pytest.fixture
def mended(own):
    """Bring the second cluster to what it is at first, before and after."""
    own.up(**USUAL)
    yield own
    own.up(**USUAL)


@pytest.fixture
def folder(own):
    """A folder of alice's for what her jobs write."""
    own.up()  # its users may have gone with the last cluster
    path = Path(tempfile.mkdtemp(prefix="test-", dir=own.home("alice")))
    own.give(path, user="alice", mode=0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)  # gone already with a user that `down` removed


def kernel_leftovers(cluster, nodes: list[str]) -> list[str]:
    """Look for anything of a cluster in the kernel, in other ways than `down` does."""
    state = str(cluster.state)
    mounts = [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if state in line
    ]
    sockets = [line for line in Path("/proc/net/unix").read_text().splitlines() if state in line]
    groups = [
        folder
        for folder, _, _ in os.walk("/sys/fs/cgroup")
        if any(node in os.path.basename(folder).split("_") for node in nodes)
    ]
    environments = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"={state}".encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                words = path.with_name("cmdline").read_bytes().replace(b"\0", b" ")
                environments.append(f"{path} {words.decode(errors='replace')[:300]}")
        except OSError:
            continue
    return mounts + sockets + groups + environments


# --- up ---------------------------------------------------------------------------------------


def test_up_again_changes_nothing_and_says_so(own):
    before = own.pids()
    said = own.up()
    assert own.pids() == before
    assert said.count("was up already") == len(before)


def test_up_with_other_options_changes_what_must_and_keeps_the_rest(mended):
    before = mended.pids()
    mended.up(nodes=2)
    after = mended.pids()
    assert len(mended.nodes) == 2
    assert mended.dev_cluster("status").returncode == 0
    assert {name: after[name] for name in SLURM_DAEMONS[:3]} == {
        name: before[name] for name in SLURM_DAEMONS[:3]
    }


@pytest.mark.parametrize("daemon", ["slurmctld", "slurmd-{node}", "agent-{node}", "watcher"])
def test_up_brings_back_the_one_daemon_that_died(mended, daemon):
    name = daemon.format(node=mended.nodes[0])
    before = mended.pids()
    mended.kill(name)
    assert mended.dev_cluster("status").returncode == 1
    mended.up()
    after = mended.pids()
    assert {other for other in after if after[other] != before[other]} == {name}
    assert mended.dev_cluster("status").returncode == 0


def test_two_clusters_run_side_by_side(cluster, own, folder):
    assert set(cluster.nodes).isdisjoint(own.nodes)
    for one in (cluster, own):
        script = "#!/bin/sh\nscontrol show config | grep SLURM_CONF >config\n"
        one.wait_job(one.sbatch("alice", script, "-D", str(folder)), "COMPLETED")
        assert str(one.state) in (folder / "config").read_text()


def test_a_machine_whose_name_leads_nowhere_will_do(mended, folder):
    """Debian maps its name to 127.0.1.1, others to nothing: the cluster must not rely on it."""
    argv = ["unshare", "--uts", "sh", "-c", 'hostname leads-nowhere; exec "$@"', "sh"]
    environment = {"SBRIDGE_DEV_STATE": str(mended.state)}
    checked(run([*argv, str(mended.script), "up"], environment=environment))
    job = mended.sbatch("alice", "#!/bin/sh\nsrun hostname >host\n", "-D", str(folder))
    mended.wait_job(job, "COMPLETED")
    assert (folder / "host").read_text() == "leads-nowhere\n"


def test_what_a_node_limits_is_limited(own, folder):
    wanted = "python3 -c 'b\"x\" * (300 << 20)'"
    job = own.sbatch("alice", f"#!/bin/sh\n{wanted}\n", "--mem=100", "-D", str(folder))
    own.wait_job(job, "OUT_OF_MEMORY")


@pytest.fixture
def altered_scripts(tmp_path) -> Callable[[str, str, str], Path]:
    """Give a dev-cluster whose files one can spoil."""
    tree = tmp_path / "tree"
    repository = Path(__file__).resolve().parents[2]
    shutil.copytree(repository, tree, ignore=shutil.ignore_patterns(".git", "__pycache__"))

    def alter(name: str, old: str, new: str) -> Path:
        path = tree / "scripts" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        return tree / "scripts" / "dev-cluster"

    return alter


def test_missing_packages_are_named_with_the_command_that_installs_them(own, altered_scripts):
    own = type(own)(own.state, altered_scripts("packages", "\nmunge\n", "\nmunge\nno-such-pkg\n"))
    ran = own.dev_cluster("up")
    assert ran.returncode == 1
    assert "Missing packages: no-such-pkg\n" in ran.stderr
    assert "apt-get install --no-install-recommends no-such-pkg" in ran.stderr


def test_a_daemon_that_does_not_come_up_shows_the_end_of_its_log(mended, altered_scripts):
    spoilt = altered_scripts(
        "dev-cluster.d/templates/mariadb.cnf", "[mariadbd]", "[mariadbd]\nno_such=1"
    )
    ran = type(mended)(mended.state, spoilt).dev_cluster("up")
    assert ran.returncode == 1
    assert "mariadbd ended right after its start" in ran.stderr
    assert "unknown variable 'no_such=1'" in ran.stderr


@pytest.mark.parametrize("state", ["/var/tmp/" + "x" * 60, "/var/tmp/with space", "relative'quote"])
def test_a_state_folder_that_cannot_work_is_refused(own, state):
    ran = type(own)(Path(state)).dev_cluster("up")
    assert ran.returncode == 1
    assert "dev-cluster: " in ran.stderr
    assert not Path(state).exists()


def test_a_folder_of_other_things_is_refused_and_left_alone(own):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as foreign:
        Path(foreign, "precious").touch()
        ran = type(own)(Path(foreign)).dev_cluster("up")
        assert os.listdir(foreign) == ["precious"]
        assert Path(foreign).stat().st_mode & 0o777 == 0o700
    assert ran.returncode == 1
    assert f"{foreign} is not empty and holds no cluster" in ran.stderr


@pytest.mark.parametrize("command", ["up", "down", "status", "env"])
def test_a_state_folder_of_an_ordinary_user_is_refused(own, command):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as foreign:
        shutil.copy(own.state / "cluster.json", foreign)
        os.chown(foreign, pwd.getpwnam("bob").pw_uid, -1)
        ran = type(own)(Path(foreign)).dev_cluster(command)
        assert os.listdir(foreign) == ["cluster.json"]
    assert ran.returncode == 1
    assert f"{foreign} belongs to uid {pwd.getpwnam('bob').pw_uid}" in ran.stderr


@pytest.mark.parametrize("command", ["up", "down", "status", "env"])
def test_a_link_to_a_state_folder_is_refused(own, command):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        link = Path(folder, "link")
        link.symlink_to(own.state)
        ran = type(own)(link).dev_cluster(command)
    assert ran.returncode == 1
    assert f"{link} leads through a link to {own.state}" in ran.stderr


def test_a_state_folder_that_users_cannot_reach_is_refused(own):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as closed:
        ran = type(own)(Path(closed, "state")).dev_cluster("up")
    assert ran.returncode == 1
    assert f"{closed} is closed to ordinary users" in ran.stderr


# --- env, as, status --------------------------------------------------------------------------


def test_env_makes_the_plain_commands_work(own):
    script = (
        f'eval "$({own.script} env)"; sinfo -hNo %N -p main; type -p sbridge; echo $SBRIDGE_NAS'
    )
    command = ["env", "-i", f"SBRIDGE_DEV_STATE={own.state}", "PATH=/usr/bin", "bash", "-c", script]
    node, sbridge, nas = own.as_user("root", command).split()
    assert [node] == own.nodes
    assert sbridge == f"{own.prefix}/bin/sbridge"
    assert nas == str(own.nas)


def test_as_keeps_argv_stdin_and_the_exit_code(own):
    script = 'cat; printf "[%s]" "$@"; pwd; exit 7'
    argv = ["bash", "-c", script, "-", "a b", "", "--nodes", "$HOME", "*", "-h"]
    ran = own.run_as("alice", argv, b"in\0put\n")
    assert (
        ran.stdout
        == "in\0put\n[a b][][--nodes][$HOME][*][-h]" + pwd.getpwnam("alice").pw_dir + "\n"
    )
    assert ran.returncode == 7


def test_as_makes_an_ordinary_user_with_his_groups(own):
    assert "(research)" in own.as_user("alice", ["id"])
    assert "(research)" not in own.as_user("bob", ["id"])
    status = own.as_user("alice", ["cat", "/proc/self/status"])
    assert "CapEff:\t0000000000000000" in status
    names = set(own.as_user("alice", ["env", "-0"]).split("\0"))
    assert not [name for name in names if name.startswith("SBRIDGE_DEV_CLUSTER=")]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nobody-here", "id"], "no user nobody-here"), (["alice"], "needs a command")],
)
def test_as_refuses_what_it_cannot_do(own, words, message):
    ran = own.dev_cluster("as", *words)
    assert ran.returncode == 1
    assert message in ran.stderr


def test_as_says_127_for_a_command_that_is_not_there(own):
    assert own.run_as("alice", ["no-such-command"]).returncode == 127


def test_status_names_every_daemon_and_socket(own):
    ran = own.dev_cluster("status")
    assert ran.returncode == 0
    assert all(name in ran.stdout for name in own.pids())
    assert str(own.agent_socket(own.nodes[0])) in ran.stdout
    assert "main*" in ran.stdout


# --- down -------------------------------------------------------------------------------------


# These bring the cluster to what they need, and leave it so for the next of them: to mend it after
# each would take longer than the test.


@pytest.mark.parametrize(
    "died", [[], ["slurmctld"], ["slurmctld", "slurmd-{node}", "agent-{node}"]]
)
@pytest.mark.parametrize("proctrack", ["cgroup", "linuxproc"])
def test_down_leaves_nothing_behind(own, folder, proctrack, died):
    own.up(**{**USUAL, "proctrack": proctrack})
    nodes = own.nodes
    seconds = f"{10_000 + os.getpid()}.{len(died)}{proctrack == 'cgroup':d}"
    own.sbatch("alice", STUBBORN.format(seconds=seconds), "-D", str(folder))
    own.wait_for((folder / "started").exists)
    for daemon in died:
        own.kill(daemon.format(node=nodes[0]))
    ran = own.dev_cluster("down")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "nothing left behind" in ran.stdout
    assert own.processes(f"sleep\0{seconds}") == []
    assert kernel_leftovers(own, nodes) == []
    own.up()
    assert own.slurm("squeue", "-h", "-t", "R,PD") == "", "a job came back from the dead"


@pytest.mark.podman
@pytest.mark.parametrize("died", [[], ["slurmctld", "slurmd-{node}", "agent-{node}"]])
@pytest.mark.parametrize("proctrack", ["cgroup", "linuxproc"])
def test_down_ends_a_sandboxed_job_wholly(own, folder, proctrack, died):
    own.up(nodes=1, runtime="podman", proctrack=proctrack)
    nodes = own.nodes
    seconds = f"{20_000 + os.getpid()}.{len(died)}{proctrack == 'cgroup':d}"
    image = "#K8S_IMAGE=localhost/sbridge-demo:latest\n"
    script = STUBBORN.format(seconds=seconds).replace("\n", "\n" + image, 1)
    own.sbatch("alice", script.replace("setsid ", ""), "--mem=200", "-D", str(folder))
    own.wait_for((folder / "started").exists)
    assert own.sandboxes() != []
    for daemon in died:
        own.kill(daemon.format(node=nodes[0]))
    ran = own.dev_cluster("down")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert own.processes(f"sleep\0{seconds}") == []
    assert kernel_leftovers(own, nodes) == []


@pytest.fixture
def asked(mended):
    """Have the agent ask for a job while slurmctld hangs, and kill both; gives squeue's words."""
    node, slurmctld = mended.nodes[0], mended.pids()["slurmctld"]
    words = "-j\000987654"
    step = ["env", "SLURM_JOB_ID=987654", f"SLURMD_NODENAME={node}", "sbridge-run", "/bin/true"]
    os.kill(slurmctld, signal.SIGSTOP)
    try:
        caller = subprocess.Popen(
            [str(mended.script), "as", "alice", *step],
            env={**os.environ, "SBRIDGE_DEV_STATE": str(mended.state)},
            stderr=subprocess.DEVNULL,
        )
        try:
            mended.wait_for(lambda: mended.processes(words))
            mended.kill("slurmctld", f"agent-{node}")
        finally:
            caller.kill()
            caller.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(slurmctld, signal.SIGCONT)
    return words


def test_down_ends_what_a_dead_agent_still_asks_slurm(mended, asked):
    """Left alone, such a squeue would go on trying to reach a slurmctld that is no more."""
    assert mended.processes(asked)
    assert mended.dev_cluster("down").returncode == 0
    assert mended.processes(asked) == []


def test_down_removes_sandboxes_that_nobody_owns(new_cluster):
    cluster = new_cluster()
    cluster.up(nodes=1)
    nodes = cluster.nodes
    cluster.podman("run", "-d", "--network=host", "localhost/sbridge-demo", "sleep", "4321.5")
    assert cluster.processes("sleep\x004321.5")
    assert cluster.dev_cluster("down").returncode == 0
    assert cluster.processes("sleep\x004321.5") == []
    assert cluster.podman("ps", "--all", "--quiet") == ""
    assert kernel_leftovers(cluster, nodes) == []


def test_down_says_loudly_what_it_could_not_remove(mended):
    busy = mended.state / "nas/busy"
    busy.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(busy)], check=True)
    try:
        with (busy / "open").open("w"):
            ran = mended.dev_cluster("down")
        assert ran.returncode == 1
        assert ran.stderr.endswith(f"These are still there:\n    mount {busy}\n")
    finally:
        subprocess.run(["umount", str(busy)], check=True)
    assert mended.dev_cluster("down").returncode == 0


@pytest.fixture
def heir(mended, new_cluster):
    """A cluster with the slot, and so the nodes' names, of one that is down."""
    assert mended.dev_cluster("down").returncode == 0
    heir = new_cluster()
    shutil.copy(mended.state / "cluster.json", heir.state)
    heir.up()
    assert heir.slot == mended.slot
    return heir


def test_a_cluster_that_is_down_touches_nothing_of_its_slots_heir(mended, heir):
    job = heir.sbatch("alice", "#!/bin/sh\nsleep 600\n", "-o", "/dev/null")
    heir.wait_job(job, "RUNNING")
    again = mended.dev_cluster("down")
    assert (again.returncode, again.stderr) == (0, "")
    mended.up()
    assert mended.slot != heir.slot
    assert heir.job_state(job) == "RUNNING"
    assert heir.dev_cluster("down", "--purge").returncode == 0
    assert not heir.state.exists()
    mended.as_user("alice", ["true"])  # users that a cluster still needs are kept


def test_down_without_a_cluster_is_fine(new_cluster):
    ran = new_cluster().dev_cluster("down")
    assert ran.returncode == 0
    assert "There is no cluster" in ran.stdout
