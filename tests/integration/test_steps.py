"""srun and Slurm's other commands in a sandboxed script: as natively, and gone afterwards."""

import os
import re
from pathlib import Path
from urllib.parse import quote

import pytest

from bridge.slurm import srun
from tests.integration.submitted_job import script

pytestmark = [pytest.mark.slurm, pytest.mark.podman]

DEMO = "localhost/sbridge-demo:latest"
BUSYBOX = "localhost/busybox:latest"
NO_SHELL = "localhost/noshell:latest"
# What differs from run to run: Slurm's own words on waiting for a CPU, ids, times, pids.
WAITING = re.compile(r"^srun: (?:Job \d+ step|Step created).*\n", re.MULTILINE)
# The task's own words come from slurmstepd natively, from sbridge-run in a sandbox.
SPEAKER = re.compile(
    r"(?:slurmstepd-n\d+: error|sbridge): (?=execve)|srun: got SIGCONT\n|.*CANCELLED AT.*\n"
)
CHANGING = re.compile(r"\d{4}-\d\d-\d\dT[\d:]+|(?<=StepId=)\d+|(?<=STEP )\d+|(?<=Terminating )\d+")


def told(job):
    """Return a job's streams and end, without what is another one in each run."""
    end = job.end
    err = job.own_err
    for pattern in (WAITING, SPEAKER, CHANGING):
        err = pattern.sub("", err)
    return job.out, sorted(err.splitlines()), end


@pytest.fixture
def inside(job):
    """Submit a script that runs in a sandbox."""

    def inside(body, *options, image=DEMO, **keywords):
        return job(script(body, image, **keywords), *options)

    return inside


@pytest.fixture
def both(job):
    """Run a body natively and then in a sandbox; returns what is to be the same."""

    def both(body, *options, **keywords):
        native = told(job(script(body, **keywords), *options))
        sandboxed = told(job(script(body, DEMO, **keywords), *options))
        return native, sandboxed

    return both


@pytest.fixture(autouse=True)
def _leaves_nothing(cluster):
    yield
    cluster.slurm("scancel", "--partition=main")
    cluster.wait_until_nothing_is_left(60)


_WAITING = "sh -c 'echo >ready; exec sleep 60'"
_UNTIL_READY = "until [ -e ready ]; do sleep 0.1; done;"
SAME = {
    "one-task": ("srun -n1 sh -c 'echo out; echo err >&2'\n", "-n1"),
    "four-tasks": ("srun -O -n4 sh -c 'echo $SLURM_NTASKS' | sort\n", "-n2"),
    "both-nodes": ("srun -N2 sh -c 'echo $SLURMD_NODENAME' | sort\n", "-N2"),
    "tasks-per-node": ("srun --ntasks-per-node=1 -l sh -c 'echo $SLURM_NODEID' | sort\n", "-N2"),
    "label": ("srun -n2 -l sh -c 'echo $SLURM_PROCID; echo e >&2' | sort\n", "-n2"),
    "exit-code": ("srun sh -c 'exit 3'; echo $?; srun sh -c 'exit 255'; echo $?\n", "-n1"),
    "no-such-program": ("srun no-such-program; echo $?\n", "-n1"),
    "no-program": ("srun /etc/passwd; echo $?\n", "-n1"),
    "bad-option": ("srun --no-such-option true; echo $?\n", "-n1"),
    "no-command": ("srun -n1; echo $?\n", "-n1"),
    "version": ("srun --version; squeue -V; srun -n1 --usage | head -n 1\n", "-n1"),
    "segmentation-fault": ("srun sh -c 'kill -SEGV $$'; echo $?\n", "-n1"),
    "arguments": (
        """srun sh -c 'printf "[%s]" "$@"' x "a  b" "" '"' "'" '$x' -- : "new\nline"; echo $?\n"""
        """srun sh -c 'printf "[%s]" "$@"' x "a  b" "" '"' "'" '$x' -- "new\nline" 끝\n""",
        "-n1",
    ),
    "stdin-from-a-file": ("seq 3 >in; srun -n1 cat <in; srun -n2 -l cat <in | sort\n", "-n2"),
    "stdin-from-a-pipe": ("seq 100000 | srun -n1 cat | cksum\n", "-n1"),
    "input-for-one-task": ("seq 3 | srun -n2 --input=1 -l cat\n", "-n2"),
    "output-file": ("srun -n2 -o out.%t sh -c 'echo $SLURM_PROCID'; cat out.0 out.1\n", "-n2"),
    "chdir": ("mkdir -p d; srun -D d pwd; srun --chdir=/usr pwd; cd d; srun pwd\n", "-n1"),
    "place": ("umask 027; ulimit -n 99; srun sh -c 'umask; ulimit -n; nice; id; pwd'\n", "-n1"),
    "step-name": (
        "srun true; srun -J named true; srun ./here; "
        "names() { sacct -n -P -j $SLURM_JOB_ID -o jobname | grep -E '^(true|named|here)'; }; "
        "until names | grep -q here; do sleep 0.1; done; names\n",
        "-n1",
    ),
    "multi-prog": (
        "printf '# two\\n0 echo zero %%t \\\\\\n more\\n\\n1 sh -c \"echo one\"\\n' >programs\n"
        "srun -n2 -l --multi-prog programs x | sort\n",
        "-n2",
    ),
    "two-components": ("srun -n1 echo a : -n1 echo b | sort\n", "-N2"),
    "one-fails": ("srun -K -l -n2 sh -c 'test $SLURM_PROCID = 1 || exit 7; sleep 60'\n", "-n2"),
    # One signal: `timeout` sends another to the group, and two at once are one to a shell.
    "terminated": ("timeout --foreground 2 srun sleep 60; echo $?\n", "-n1"),
    "killed": ("timeout --foreground -s KILL 2 srun sleep 60; echo $?\n", "-n1"),
    # A task that bears it: srun says another thing when it has heard of the end in time.
    "interrupted": (
        "timeout --foreground -s INT 2 srun --quit-on-interrupt sh -c 'trap : INT\n"
        "while :; do sleep 60; done'; echo $?\n",
        "-n1",
    ),
    "user-signal": ("timeout --foreground -s USR1 2 srun sh -c 'trap \"echo got; exit 9\" USR1\n"
                    "while :; do sleep 0.1; done'; echo $?\n", "-n1"),
    "nobody-reads": ("srun -n1 sh -c 'seq 100000' | head -n 1\n", "-n1"),
    "script-of-tasks": (
        "srun -n2 sh -c 'srun --overlap -n1 -N1 echo $SLURM_PROCID' | sort\n",
        "-n2",
    ),
    "concurrent": (
        'for i in 1 2 3 4; do srun -n1 --exact --mem=10 sh -c "echo $i >out.$i" & done; wait\n'
        "cat out.*\n",
        "-n2",
    ),
    "at-the-same-time": (
        'rm -f on.*; for i in 1 2; do srun -n1 --exact --mem=10 sh -c "touch on.$i\n'
        'until [ -e on.1 ] && [ -e on.2 ]; do sleep 0.1; done; echo both" & done; wait\n',
        "-n2",
    ),
    "one-fails-and-the-other-goes-on": (
        "srun -K0 -n2 sh -c 'test $SLURM_PROCID = 1 || exit 7; sleep 1; echo on'; echo $?\n",
        "-n2",
    ),
    # A shell starts what is in the background with these two ignored; srun takes them all the same.
    "interrupted-in-the-background": (
        f"rm -f ready; srun {_WAITING} 2>err & {_UNTIL_READY} kill -INT $!\n"
        "until grep 'one more' err; do sleep 0.1; done; kill -TERM $!; wait $!; echo $?\n",
        "-n1",
    ),
    "quit-in-the-background": (
        f"rm -f ready; srun {_WAITING} & {_UNTIL_READY} kill -QUIT $!; wait $!; echo $?\n",
        "-n1",
    ),
    "signalled-step": (
        "rm -f ready; srun sh -c 'trap \"echo got; exit 9\" USR1; echo >ready\n"
        f"while :; do sleep 0.1; done' & {_UNTIL_READY} scancel -s USR1 $SLURM_JOB_ID.0\n"
        "wait $!; echo $?\n",
        "-n1",
    ),
    "terminal-for-none": ("srun --pty sh -c 'tty; echo hi' </dev/null; echo $?\n", "-n1"),
    "own-record": (
        "scontrol update JobId=$SLURM_JOB_ID TimeLimit=7; squeue -h -j $SLURM_JOB_ID -o %l\n"
        "srun true; until sacct -n -P -j $SLURM_JOB_ID.0 -o state | grep COMPLETED; do\n"
        "sleep 0.2; done; sstat -n -P -j 4000000; echo $?\n",
        "-n1",
    ),
    "job-of-its-own": (
        "printf '#!/bin/sh\\nexit 5\\n' >job\n"
        "sbatch -W -Q -J own -o /dev/null --mem=10 job; echo $?\n",
        "-n1",
    ),
    "cancelled-step": (
        "srun sh -c 'echo ready; sleep 60' >ready & until grep -q ready ready; do sleep 1; done\n"
        "scancel $SLURM_JOB_ID.0; wait $!; echo $?\n",
        "-n1",
    ),
    "overlap": ("srun -n2 sleep 1 & srun -n2 --overlap echo a; wait\n", "-n2"),
    "ask-slurm": (
        "squeue -h -j $SLURM_JOB_ID -o '%u %T %D'; scontrol show hostnames $SLURM_JOB_NODELIST\n"
        "sinfo -h -o %R; scontrol show job 4000000; echo $?; sprio -h; sshare -h | wc -l\n",
        "-N2",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "size"), SAME.values(), ids=SAME)
def test_a_step_of_a_sandboxed_script_is_the_native_one(both, shared_dir, body, size):
    folder = shared_dir("alice")
    (folder / "here").write_text("#!/bin/sh\nexit 0\n")
    (folder / "here").chmod(0o755)
    native, sandboxed = both(f"cd {folder}\n{body}", size, "-J", "steps")
    assert sandboxed == native
    assert native[0] or native[1], "the case would not notice anything"


def test_every_option_of_this_srun_is_known_by_name_and_by_whether_it_takes_a_value(cluster):
    found = re.findall(
        r"^ {1,6}(?:-(\w),? +)?--([a-z-]+)(\[?=)?", cluster.slurm("srun", "--help"), re.MULTILINE
    )
    assert len(found) > 80
    for letter, name, value in found:
        assert name in srun.TABLE.long, name
        if value == "=":
            assert srun.TABLE.long[name] == "required" or name == "bcast", name
        else:
            assert srun.TABLE.long[name] != "required" or name == "container", name
        assert not letter or srun.TABLE.short[letter] == name


@pytest.mark.parametrize("shell", ["busybox sh", "/bin/sh"])
def test_a_step_needs_no_more_of_the_image_than_a_posix_shell(inside, shell):
    body = (
        f"{shell} /sbridge/shim/srun sh -c 'cat; exit 7' </etc/passwd | grep -c alice\n"
        f"{shell} /sbridge/shim/srun sh -c 'exit 7'; echo $?\n"
        f"timeout -s TERM 2 {shell} /sbridge/shim/srun sleep 60; echo $?\n"
    )
    ended = inside(body, image=BUSYBOX)
    assert ended.end == ("COMPLETED", "0:0")
    assert ended.out.split()[:2] == ["1", "7"]
    assert "forcing job termination" in ended.err


def test_an_image_without_a_shell_is_told_to_need_one(cluster):
    request = f"--comment=sbridge1?image={quote(NO_SHELL, safe='')}"
    runner = str(cluster.prefix / "bin/sbridge-run")
    argv = ["srun", "--quiet", "--mem=100", request, runner, "/sbridge/bin/srun", "-n1", "true"]
    ended = cluster.run_as("alice", argv)
    assert ended.returncode == 127, ended
    assert "sbridge: srun needs a /bin/sh inside, and this image has none\n" in ended.stderr


def test_srun_is_found_by_links_of_any_name_and_as_an_interpreter(inside):
    body = (
        "ln -s /sbridge/bin/srun /tmp/mine; /tmp/mine -n1 echo one\n"
        "printf '#!/sbridge/bin/srun cat\n' >/tmp/two; chmod +x /tmp/two; /tmp/two\n"
    )
    ended = inside(body, "-n1")
    assert ended.end == ("COMPLETED", "0:0")
    assert (ended.out, ended.own_err) == ("one\n#!/sbridge/bin/srun cat\n", "")


def test_bash_runs_the_shim_as_well(inside):
    ended = inside("bash /sbridge/shim/srun sh -c 'kill -TERM $$'; echo $?\n")
    assert ended.end == ("COMPLETED", "0:0")
    assert (ended.out, "Terminated" in ended.err) == ("143\n", True)


def test_a_directory_and_files_of_the_sandbox_alone_serve_as_well(inside):
    body = (
        "mkdir -p '/tmp/a b'; cd '/tmp/a b'; pwd >in; srun cat <in; srun pwd\n"
        "srun --chdir=/tmp/a\\ b pwd; cd /tmp; srun -D 'a b' pwd; echo '0 pwd' >programs\n"
        "srun --multi-prog programs; srun -n1 --multi-prog /dev/stdin <programs\n"
    )
    ended = inside(body, "-n1")
    assert ended.end == ("COMPLETED", "0:0")
    assert ended.out.splitlines() == ["/tmp/a b"] * 4 + ["/tmp"] * 2
    assert ended.own_err == ""


def test_the_tasks_have_the_environment_of_their_srun(both):
    body = (
        "export ODD='a  b=c' LD_LIBRARY_PATH=/no/such LD_PRELOAD= PATH=/mine:$PATH\n"
        "export -n OLDPWD; env -u _ env -0 | sort -z | tr '\\0' '\\n' >script\n"
        "srun env -0 | sort -z | tr '\\0' '\\n' >task; comm -3 script task | tr -d '\\t'\n"
        "srun --export=ODD,NEW=1 /bin/sh -c 'echo $ODD $NEW'\n"
        "srun --export=PATH,LD_LIBRARY_PATH sh -c 'echo $LD_LIBRARY_PATH'\n"
        "srun --export=ALL,LD_LIBRARY_PATH=/given sh -c 'echo $LD_LIBRARY_PATH'\n"
        "echo $(srun sh -c 'echo $PATH' | cut -c1-6)\n"
    )
    native, sandboxed = both(body, "-n1", interpreter="/bin/bash")
    changing = re.compile(
        r"^(SLURM_\w*(?:ID|PORT|HOST|IPADDR|JOBID)|SBRIDGE_DOOR|_)=.*\n", re.MULTILINE
    )
    same = [changing.sub("", text[0]) for text in (native, sandboxed)]
    assert same[1] == same[0]
    assert sandboxed[1:] == native[1:]
    assert "a b=c 1\n/no/such\n" in sandboxed[0]


def test_a_login_shell_finds_the_commands_again(inside):
    ended = inside("PATH=/usr/bin:/bin; . /etc/profile.d/zz-sbridge.sh; command -v srun\n")
    assert (ended.end, ended.out) == (("COMPLETED", "0:0"), "/sbridge/bin/srun\n")


def test_files_are_broadcast_to_shared_folders_and_into_each_nodes_sandbox(inside, shared_dir):
    folder = shared_dir("alice")
    body = (
        "mkdir /tmp/mine; cd /tmp/mine; printf '#!/bin/sh\necho ran $SLURM_NODEID\n' >program\n"
        "chmod 750 program; export SLURM_NTASKS=1 SLURM_NNODES=1\n"
        f"sbcast -f program {folder}/copy; echo $?; cat {folder}/copy | wc -l\n"
        "sbcast program /tmp/copy; echo $?; unset SLURM_NTASKS SLURM_NNODES\n"
        "srun -N2 --ntasks-per-node=1 sh -c '/tmp/copy; ls -l /tmp/copy | cut -c1-10' | sort\n"
        "sbcast program /tmp/copy; echo $?; sbcast -f program /tmp/; echo $?; ls /tmp | sort\n"
        "sbcast program /tmp/no/such; echo $?; sbcast /no/such /tmp/x\n"
    )
    ended = inside(body, "-N2")
    assert ended.end == ("FAILED", "255:0")
    assert ended.out.split("\n")[:-1] == [
        *("0", "2", "0", "-rwxr-x---", "-rwxr-x---", "ran 0", "ran 1"),
        *("17", "0", "copy", "mine", "program", "2"),
    ]
    assert ended.err.count("File exists") == 2
    assert "No such file or directory" in ended.err
    assert "sbcast: error: Can't open `/no/such`: No such file or directory" in ended.err


def test_a_broadcast_of_the_program_is_refused_with_the_reason(inside):
    ended = inside("srun --bcast=/tmp/x hostname\n")
    assert ended.end == ("FAILED", "1:0")
    assert ended.err.endswith("put it into a shared folder and leave --bcast out\n")


def test_a_step_for_another_job_is_the_nodes_own_business(cluster, inside, job):
    other = job(script("echo ready; sleep 60\n"), "-n1").wait_to_write()
    body = f"srun --overlap --jobid={other.job_id} sh -c 'echo $SLURM_JOB_ID; ls /sbridge'\n"
    ended = inside(body, "-n1")
    assert ended.end == ("FAILED", "2:0")
    assert ended.out == f"{other.job_id}\n"
    assert "No such file" in ended.err


def test_a_cancelled_job_takes_its_steps_along(cluster, inside):
    running = inside("srun sh -c 'echo ready; sleep 4321'\n", "-N2", "-n2").wait_to_write()
    cluster.wait_for(lambda: len(cluster.processes("sleep\x004321")) == 2)
    cluster.scancel(running.job_id)
    assert running.wait() == "CANCELLED"
    cluster.wait_for(lambda: not cluster.processes("sleep\x004321"))


def test_steps_go_on_without_the_agents_and_new_ones_wait_for_them(cluster, inside):
    body = (
        "srun sh -c 'echo ready; while [ ! -e go ]; do sleep 0.1; done; echo on'; srun echo new\n"
    )
    running = inside(f"cd $(dirname $SBRIDGE_OUTPUTS)\n{body}", "-n1").wait_to_write()
    cluster.kill_agents()
    try:
        out = next(cluster.spool.glob(f"*/jobs/{running.job_id}.0/out"))
        (out / "go").touch()
        running.wait_to_write("on\n")
        running.wait_to_say("waiting for the sbridge agent")
    finally:
        cluster.start_agents()
    assert running.end == ("COMPLETED", "0:0")
    assert running.out == "ready\non\nnew\n"


def test_twenty_quick_steps_leave_nothing_behind_in_the_sandbox(inside):
    body = """
state() { ls $SBRIDGE_DOOR/ended; ls /sbridge/steps; set -- /proc/[0-9]*; echo $#; }
before=$(state)
for i in $(seq 20); do srun -n1 true || echo failed; done
for i in $(seq 100); do [ "$(state)" = "$before" ] && break; sleep 0.1; done
[ "$(state)" = "$before" ] && echo clean
"""
    ended = inside(body, "-n1", interpreter="/bin/bash")
    ended.wait(timeout=120)
    assert ended.out == "clean\n"


# Looks at once, with what the shell can do by itself, who else is in this step's cgroup.
LEFT_IN_CGROUP = """
cgroup=$(sed -nE 's/^[0-9]+:(freezer|):(.*job_.*)/\\1\\2/p' /proc/self/cgroup)
for i in $(seq 30); do
    RUN /bin/true
    mapfile -t left </sys/fs/cgroup/$cgroup/cgroup.procs
    [ "${left[*]}" = $$ ] || echo "${left[@]}"
done
"""


def test_nothing_is_left_in_a_steps_cgroup_for_which_slurm_would_wait_a_second(cluster):
    """slurmstepd looks once, right after the task, and then sleeps."""
    loop = LEFT_IN_CGROUP.replace("RUN", str(cluster.prefix / "bin/sbridge-run"))
    request = f"--comment=sbridge1?image={quote(DEMO, safe='')}"
    said = cluster.as_user("alice", ["srun", "-Q", "--mem=100", request, "bash", "-c", loop])
    assert said == ""


HOSTILE = """cd $SBRIDGE_DOOR
say() { printf "$@" >door; }
say 'run\n\nrun 1\nrun x y z srun\nrun 1 1 1 /bin/sh\nrun 1 1 1 ../srun\nrun -1 -1 -1 srun\n'
say 'run 999999999999999999999 1 1 srun\nrun 1 2 99999999 squeue\nsignal 1 KILL\nsignal $$ KILL\n'
say 'run 4194304 4194304 1 srun\nsignal\nrun 1 1 0 srun extra\n\\0\\377\n'
head -c 3000000 /dev/zero >door
head -c 100000 /dev/zero | tr '\\0' '\\n' >door
say '\n'
touch ended/1 2>/dev/null && echo writable
mkdir ../x 2>/dev/null && echo writable
for i in $(seq 50); do srun --version >/dev/null & done; wait
srun echo still there
"""


def test_nothing_that_is_said_through_the_door_harms(cluster, inside):
    ended = inside(HOSTILE, "-n1", interpreter="/bin/bash")
    ended.wait(timeout=120)
    assert ended.out == "still there\n"
    assert ended.end == ("COMPLETED", "0:0")


def test_the_command_on_the_node_has_no_right_that_its_user_has_not(cluster, inside):
    body = "srun sh -c 'echo ready; sleep 60'\n"
    running = inside(body, "-n1").wait_to_write()
    line = next(
        line for line in cluster.processes("echo ready; sleep 60") if line.startswith("srun\0")
    )
    assert line.startswith("srun\0--job-name=sh\0")
    pid = next(
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.read_bytes().decode(errors="replace") == line
    )
    status = Path(f"/proc/{pid}/status").read_text()
    uid = cluster.home("alice").stat().st_uid
    assert re.search(rf"^Uid:\t{uid}\t{uid}\t{uid}\t{uid}$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    assert "NoNewPrivs:\t1\n" in status
    assert f"job_{running.job_id}/step_batch" in Path(f"/proc/{pid}/cgroup").read_text()
    held = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    assert [name for name in held if name.startswith(("/proc", "mnt:", "anon_inode:[pidfd"))] == []


LINUXPROC = {"runtime": "podman", "proctrack": "linuxproc"}


@pytest.mark.parametrize("cluster", [LINUXPROC], indirect=True)
@pytest.mark.parametrize("name", ["both-nodes", "exit-code", "terminated", "stdin-from-a-file"])
def test_a_step_is_the_native_one_without_cgroups_too(both, shared_dir, name):
    body, size = SAME[name]
    native, sandboxed = both(f"cd {shared_dir('alice')}\n{body}", size)
    assert sandboxed == native


@pytest.mark.parametrize("cluster", [LINUXPROC], indirect=True)
def test_a_cancelled_job_takes_its_steps_along_without_cgroups_too(cluster, inside):
    running = inside("srun sh -c 'echo ready; sleep 4322'\n", "-N2", "-n2").wait_to_write()
    cluster.wait_for(lambda: len(cluster.processes("sleep\x004322")) == 2)
    cluster.scancel(running.job_id)
    assert running.wait() == "CANCELLED"
    cluster.wait_for(lambda: not cluster.processes("sleep\x004322"))
