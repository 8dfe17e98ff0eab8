"""What a script sees of itself in a Podman sandbox is what it sees natively."""

import os
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.integration import process_attributes
from tests.integration.submitted_job import script

pytestmark = [pytest.mark.slurm, pytest.mark.podman]

DEMO = "localhost/sbridge-demo:latest"
OTHER = "localhost/other-settings:latest"
# An image that was made elsewhere: another time zone, and variables of its own.
DOCKERFILE = f"""FROM {DEMO}
COPY localtime /etc/localtime
ENV LD_LIBRARY_PATH=/opt/lib LANG=ko_KR.UTF-8 TZ=Asia/Tokyo HOME=/image TERM=image SLURM_NTASKS=77
ENV CONDA_PREFIX="/opt/a b" TMPDIR=/var/tmp
"""


@pytest.fixture
def other_image(cluster, tmp_path):
    """Make an image with settings of its own."""
    (tmp_path / "localtime").write_bytes(Path("/usr/share/zoneinfo/Asia/Tokyo").read_bytes())
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    cluster.podman("build", "--pull=never", "--quiet", f"--tag={OTHER}", str(tmp_path))
    yield OTHER
    cluster.podman("rmi", "--force", OTHER)


@pytest.fixture
def both(job):
    """Run a body natively and in a sandbox; return what each wrote."""

    def both(body, *options, image=DEMO):
        seen = []
        for of in ("", image):  # one after the other: on the same CPU
            ran = job(script(body, of, interpreter="/bin/bash"), *options)
            assert ran.end == ("COMPLETED", "0:0"), ran.err
            seen.append(ran.out)
        return seen

    return both


def test_every_attribute_is_the_native_one(both):
    native, sandboxed = map(process_attributes.read, both(process_attributes.body()))
    assert set(native) == set(process_attributes.SHOWN)
    assert sandboxed == native
    assert "research" in native["user and groups"]


def test_signals_that_are_ignored_stay_so(cluster):
    """Slurm 26.05 hands on what slurmd ignores, as nohup and background processes do."""
    look = "exec {} /bin/bash -c 'exec grep SigIgn /proc/self/status'"
    srun = ("srun", "--quiet", "--mem=100", f"--comment=sbridge1?image={quote(DEMO, safe='')}")
    for names, mask in (("HUP INT USR2", 0x803), ("PIPE", 0x1000), ("XFSZ PIPE", 0x1001000)):
        seen = [
            cluster.as_user("alice", [*srun, "bash", "-c", f"trap '' {names}; {look.format(way)}"])
            for way in ("", "sbridge-run")
        ]
        assert int(seen[0].split()[1], 16) & mask == mask
        assert seen[1] == seen[0]


# Does to itself what a child inherits, and becomes the program of its arguments.
UNUSUAL = """
import ctypes, os, platform, signal, sys
libc = ctypes.CDLL(None)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
assert libc.personality(0x0040000) == 0  # ADDR_NO_RANDOMIZE
set_mempolicy = {"x86_64": 238, "aarch64": 237}[platform.machine()]
bind, nodes = 2, (1).to_bytes(128, "little")
assert libc.syscall(set_mempolicy, bind, nodes, ctypes.c_ulong(1025)) == 0
for name, value in (("oom_score_adj", "321"), ("coredump_filter", "0x11"), ("timerslack_ns", "7")):
    open("/proc/self/" + name, "w").write(value)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_all_that_a_child_inherits_reaches_the_script(cluster, shared_dir):
    program = shared_dir("alice") / "unusual.py"
    program.write_text(UNUSUAL)
    program.chmod(0o644)
    names = ("signals", "policies", "personality", "core dumps and timers")
    body = process_attributes.body(frozenset({*names, "memory to be freed first"}))
    request = f"--comment=sbridge1?image={quote(DEMO, safe='')}"
    argv = ["srun", "--quiet", "--mem=100", request, "/usr/bin/python3", str(program)]
    native, sandboxed = (
        cluster.as_user("alice", [*argv, *way, "/bin/bash", "-c", body])
        for way in ((), ("sbridge-run",))
    )
    assert sandboxed == native
    seen = process_attributes.read(native)
    assert "SigBlk:\t0000000000004200\n" in seen["signals"]
    assert seen["policies"] == "0 3\nbind:0\n"
    assert seen["personality"] == "00040000\n"
    assert seen["core dumps and timers"] == "00000011\n7\n"
    assert seen["memory to be freed first"] == "321\n"


def test_memory_comes_from_the_nodes_that_srun_was_told(cluster):
    request = f"--comment=sbridge1?image={quote(DEMO, safe='')}"
    look = process_attributes.body(frozenset({"policies", "CPUs and memory"}))
    srun = ["srun", "--quiet", "--mem=100", "--mem-bind=map_mem:0", request]
    native, sandboxed = (
        cluster.as_user("alice", [*srun, *way, "/bin/bash", "-c", look])
        for way in ((), ("sbridge-run",))
    )
    assert "\nbind:0\n" in native
    assert sandboxed == native


def test_limits_of_whoever_submits_reach_the_script(cluster, shared_dir):
    """Those that Slurm carries over: unlimited, and as much as this machine gives anyone."""
    folder = shared_dir("alice")
    seen = []
    for name, image in (("native", ""), ("sandboxed", DEMO)):
        file = folder / f"{name}.sh"
        look = "ulimit -Ss; ulimit -Sl; ulimit -Sn; ulimit -Sc; umask\n"
        file.write_text(script(look, image, "/bin/bash"))
        lines = "ulimit -S -s unlimited -l $(ulimit -Hl) -n 321 -c 0; umask 027"
        submit = f'{lines}; exec sbatch --wait --output="$1.out" "$1"'
        cluster.as_user("alice", ["bash", "-c", submit, "sh", str(file)])
        seen.append(file.with_name(f"{file.name}.out").read_text().split())
    assert seen[1] == seen[0]
    assert (seen[0][0], *seen[0][2:]) == ("unlimited", "321", "0", "0027")


def test_nice_value_affinity_and_umask_of_the_step_are_inherited(cluster):
    request = f"sbridge1?image={quote(DEMO, safe='')}"
    look = "umask; nice; grep Cpus_allowed_list /proc/self/status"
    last = "grep Cpus_allowed_list /proc/self/status | grep -o '[0-9]*$'"
    step = f'umask 037; exec nice -n 7 taskset -c $({last}) "$@"'

    def seen(*interpreter):
        options = [
            "--mem=100",
            "--cpus-per-task=2",
            f"--comment={request}",
            "bash",
            "-c",
            step,
            "sh",
        ]
        return cluster.as_user("alice", ["srun", *options, *interpreter, "-c", look])

    native = seen("/bin/bash")
    assert native.split()[:3] == ["0037", "7", "Cpus_allowed_list:"]
    assert native.split()[3].isdigit()  # one of the two
    assert seen("sbridge-run", "/bin/bash") == native


def test_the_clock_is_the_nodes_whatever_the_image_says(both, other_image):
    names = frozenset({"clock", "time zones"})
    native, sandboxed = both(process_attributes.body(names), image=other_image)
    assert sandboxed == native
    assert "TZ=\n" in native


def test_a_time_zone_of_the_user_is_known_with_every_image(both):
    look = "date -d @1800000000 +%H%Z\n"
    assert both(look, "--export=ALL,TZ=Asia/Seoul") == ["17KST\n"] * 2


def test_variables_of_the_image_are_used_where_the_job_has_none(job, other_image):
    names = "LD_LIBRARY_PATH LANG CONDA_PREFIX HOME TMPDIR SLURM_NTASKS KUBERNETES_PORT container"
    look = f'for name in {names}; do echo "$name=${{!name}}"; done\n'
    ran = job(script(look, other_image, "/bin/bash"), "--export=ALL,LANG=C.UTF-8")
    assert ran.end == ("COMPLETED", "0:0"), ran.err
    assert ran.out.splitlines() == [
        "LD_LIBRARY_PATH=/opt/lib",
        "LANG=C.UTF-8",
        "CONDA_PREFIX=/opt/a b",
        "HOME=/home/alice",
        "TMPDIR=/tmp",  # slurmstepd sets it
        "SLURM_NTASKS=",
        "KUBERNETES_PORT=",
        "container=",
    ]


def test_more_than_64_mib_of_shared_memory_can_be_used(job):
    fill = "head -c 80000000 /dev/zero >/dev/shm/x && wc -c </dev/shm/x\n"
    ran = job(script(fill, DEMO), "--mem=300")
    assert (ran.end, ran.out, ran.own_err) == (("COMPLETED", "0:0"), "80000000\n", "")


def test_a_temporary_folder_that_the_image_lacks_is_replaced_with_a_word(job, shared_dir):
    with_ours = "--export=ALL,TMPDIR={}"
    ours = shared_dir("alice") / "made by Slurm"
    look = 'mktemp; echo "$TMPDIR"\n'
    kept = job(script(look, DEMO), with_ours.format(ours))
    assert kept.end == ("COMPLETED", "0:0"), kept.err
    assert kept.out.splitlines()[1] == str(ours)

    elsewhere = Path(f"/var/tmp/sbridge-test-{os.getpid()}")
    replaced = job(script(look, DEMO), with_ours.format(elsewhere))
    try:
        assert replaced.end == ("COMPLETED", "0:0"), replaced.err
    finally:
        subprocess.run(["rm", "-rf", str(elsewhere)], check=True)  # slurmstepd made it
    assert replaced.out.splitlines()[1] == "/tmp"
    assert f"the sandbox has no folder {elsewhere} (TMPDIR); using /tmp" in replaced.err
