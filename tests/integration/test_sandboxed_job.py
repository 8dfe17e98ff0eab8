"""A sandboxed job is a Slurm job: I/O, ends, signals, accounting, and what goes wrong."""

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
from pathlib import Path

import pytest

from tests.integration.running_cluster import own_stderr

pytestmark = [pytest.mark.slurm, pytest.mark.podman]

DEMO = "#K8S_IMAGE=localhost/sbridge-demo:latest\n"


def script(body, image=DEMO, interpreter="/bin/bash", header=""):
    return f"#!{interpreter}\n#SBATCH --mem=200\n{header}{image}{body}"


class Ended:
    """A job's two streams and what Slurm says of its end."""

    def __init__(self, cluster, job_id, out, err, timeout=60):
        self.job_id = job_id
        self.state = cluster.wait_job(job_id, timeout=timeout)
        self.exit_code = cluster.job_field(job_id, "ExitCode")
        self.out, self.err = out.read_bytes(), own_stderr(err)

    @property
    def end(self):
        return self.state, self.exit_code


@pytest.fixture
def folder(shared_dir):
    """A new folder of alice's that sandboxes see too."""
    return shared_dir("alice")


@pytest.fixture
def submit(cluster, folder):
    """Submit a script as alice with its streams in files of their own; returns (id, out, err)."""
    count = itertools.count()

    def submit(text, *options):
        number = next(count)
        out, err = folder / f"out{number}", folder / f"err{number}"
        job_id = cluster.sbatch("alice", text, "-o", str(out), "-e", str(err), *options)
        return job_id, out, err

    return submit


@pytest.fixture
def run(cluster, submit):
    """Submit a script and wait for its end."""

    def run(text, *options):
        return Ended(cluster, *submit(text, *options))

    return run


@pytest.fixture
def running(cluster, submit):
    """Submit a script and wait until it has written a line of `ready`."""

    def running(text, *options):
        job_id, out, err = submit(text, *options)
        cluster.wait_for(lambda: out.exists() and b"ready" in out.read_bytes())
        return job_id, out, err

    return running


@pytest.fixture
def both(cluster, submit):
    """Run a body natively and in a sandbox, at the same time."""

    def both(body, *options, **keywords):
        native = submit(script(body, image="", **keywords), *options)
        sandboxed = submit(script(body, **keywords), *options)
        return Ended(cluster, *native), Ended(cluster, *sandboxed)

    return both


def test_streams_and_exit_code_are_the_native_ones(both):
    native, sandboxed = both('printf "out\\0\\xff"; echo err >&2; exit 3\n')
    assert sandboxed.out == native.out == b"out\0\xff"
    assert sandboxed.err == native.err == b"err\n"
    assert sandboxed.end == native.end == ("FAILED", "3:0")


def test_line_breaks_in_name_and_comment_and_tabs_in_the_first_line_change_nothing(run):
    words = ("-J", "a\nJobId=1 b\x0bc\u2028d", "--comment", "x\ny")
    ended = run(script("echo $-; false; echo on\n", interpreter="/bin/bash\t-e"), *words, "-a", "7")
    assert b"e" in ended.out
    assert b"on" not in ended.out
    assert ended.exit_code == "1:0"


@pytest.mark.parametrize("name", ["KILL", "SEGV", "TERM", "USR1"])
def test_death_by_a_signal_is_the_native_one(both, name):
    native, sandboxed = both(f"kill -{name} $$\n")
    assert sandboxed.end == native.end
    assert sandboxed.exit_code != "0:0"


def test_user_groups_limits_and_place_are_the_native_ones(run):
    body = (
        "umask 027; id; whoami; pwd; umask; hostname; echo $0; echo $HOME; nice\n"
        "ulimit -a | grep -v pipe\n"
        'grep -E "Cpus_allowed_list|^SigIgn|^SigBlk" /proc/self/status\n'
        "cat /proc/self/cgroup; tail -n 1 $0\n"
    )
    native, sandboxed = (run(script(body, image=image), "--nice=0") for image in ("", DEMO))
    same = lambda text: re.sub(rb"job_?0*\d+", b"job", text)  # noqa: E731
    assert same(sandboxed.out) == same(native.out)
    assert b"research" in sandboxed.out
    assert sandboxed.err == native.err == b""


def test_environment_is_the_native_one_but_for_the_documented_three(both):
    native, sandboxed = both("env -0 | sort -z\n", "--export=ALL,ODD=a b=c,한글=값")
    changing = re.compile(
        rb"^(SLURM_JOB_?ID|SLURM_JOB_(SLUID|START_TIME|END_TIME)|SLURM_TASK_PID|"
        rb"SBRIDGE_\w+|PATH|_|SHLVL|PWD)="
    )

    def variables(text):
        return [pair for pair in text.split(b"\0") if not changing.match(pair)]

    assert variables(sandboxed.out) == variables(native.out)
    assert "한글=값".encode() in variables(sandboxed.out)


def test_script_arguments_arrive_as_given(cluster, folder):
    file = folder / "job 파일.sh"
    file.write_text(script('printf "%s|" "$@"\n'))
    out = folder / "out"
    command = ["sbatch", "--parsable", "-o", str(out), str(file), "a b", "", "$x", "끝"]
    job_id = int(cluster.as_user("alice", command))
    cluster.wait_job(job_id)
    assert out.read_text() == "a b||$x|끝|"


def test_privileges_are_gone_inside(run):
    ran = run(script('grep -E "^(Cap|NoNewPrivs|Seccomp:)" /proc/self/status\n'))
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{name}:\t0000000000000000".encode() in ran.out
    assert b"NoNewPrivs:\t1" in ran.out


def test_scancel_ends_every_process_and_the_sandbox(cluster, running):
    job_id, out, err = running(script("sleep 987 & echo ready; wait\n"))
    cluster.scancel(job_id)
    ran = Ended(cluster, job_id, out, err)
    assert ran.state == "CANCELLED"
    assert b"CANCELLED AT" in ran.err
    assert cluster.processes("sleep\0987") == []
    cluster.wait_for(lambda: cluster.sandboxes() == [])


SIGNALLED = """
trap 'echo shell USR1' USR1
trap 'echo shell TERM; wait; exit 9' TERM
bash -c '
    trap "echo child USR1" USR1; trap "echo child TERM; exit" TERM
    echo ready; while :; do sleep 0.1; done' &
while :; do wait; done
"""


@pytest.mark.parametrize(
    ("option", "reached"), [("-b", {b"shell USR1"}), ("-f", {b"shell USR1", b"child USR1"})]
)
def test_a_signal_reaches_the_native_processes(cluster, running, option, reached):
    seen = []
    for job in [running(script(SIGNALLED, image=image)) for image in ("", DEMO)]:
        job_id, out, _ = job
        cluster.scancel(job_id, option, "-s", "USR1")
        cluster.wait_for(lambda out=out: reached <= set(out.read_bytes().splitlines()))
        cluster.scancel(job_id)
        seen.append(sorted(Ended(cluster, *job).out.splitlines()))
    assert seen[1] == seen[0]


def test_time_limit_ends_the_job_as_timeout(cluster, running):
    job_id, out, err = running(script("echo ready; sleep 300\n"))
    # Slurm counts limits in minutes, but their end in seconds; it looks every thirty.
    cluster.scontrol("update", f"JobId={job_id}", "EndTime=now+1")
    ran = Ended(cluster, job_id, out, err)
    assert ran.state == "TIMEOUT"
    assert b"DUE TO TIME LIMIT" in ran.err


def test_too_much_memory_is_slurms_out_of_memory(run):
    ran = run(script("tail /dev/zero\n"))
    assert ran.state == "OUT_OF_MEMORY"


def test_image_without_bash_falls_back_to_sh_and_says_so(run):
    ran = run(script("echo $0; echo hi\n", image="#K8S_IMAGE=localhost/busybox:latest\n"))
    assert ran.end == ("COMPLETED", "0:0")
    assert ran.out.endswith(b"slurm_script\nhi\n")
    assert b"the image has no /bin/bash; using /bin/sh" in ran.err


def test_image_without_any_shell_fails_with_the_reason(run):
    ran = run(script("echo hi\n", image="#K8S_IMAGE=localhost/noshell:latest\n"))
    assert ran.end == ("FAILED", "2:0")
    assert b"no /bin/bash and no /bin/sh" in ran.err


def test_image_that_does_not_exist_fails_the_job_and_not_the_node(cluster, run):
    ran = run(script("echo hi\n", image="#K8S_IMAGE=localhost/nosuch:1\n"))
    assert ran.state == "FAILED"
    assert ran.out == b""
    assert b"image localhost/nosuch:1 is not on this node" in ran.err
    assert cluster.drained_nodes() == {}


def test_a_working_directory_that_the_sandbox_lacks_is_warned_of(run):
    ran = run(script("pwd\n", header="#K8S_WORKDIR=/no/such\n"))
    assert b"working directory /no/such" in ran.err
    assert ran.state == "COMPLETED"


def test_killed_agent_changes_nothing_for_a_running_job(cluster, running, folder):
    go = folder / "go"
    body = f"echo ready; while [ ! -e {go} ]; do sleep 0.1; done; echo end; exit 5\n"
    job_id, out, err = running(script(body))
    cluster.kill_agents()
    go.touch()
    cluster.wait_for(lambda: b"end" in out.read_bytes())
    cluster.start_agents()
    ran = Ended(cluster, job_id, out, err)
    assert ran.end == ("FAILED", "5:0")
    cluster.wait_for(lambda: cluster.sandboxes() == [])
    cluster.wait_for(lambda: cluster.drained_nodes() == {})


def test_scancel_works_while_the_agent_is_dead(cluster, running):
    job_id, _, _ = running(script("echo ready; sleep 987\n"))
    cluster.kill_agents()
    cluster.scancel(job_id)
    cluster.wait_for(lambda: not cluster.processes("sleep\0987"))
    cluster.start_agents()
    cluster.wait_job(job_id)
    cluster.wait_for(lambda: cluster.sandboxes() == [])
    cluster.wait_for(lambda: cluster.drained_nodes() == {})


def test_a_dead_agent_drains_the_node_with_our_reason_and_its_return_resumes_it(cluster, submit):
    cluster.kill_agents()
    job_id, out, err = submit(script("echo ran\n"))
    cluster.wait_for(cluster.drained_nodes)
    ((_, reason),) = cluster.drained_nodes().items()
    assert reason.startswith(f"sbridge: prepare of job {job_id}: ")
    cluster.start_agents()
    cluster.start_requeued(job_id)
    ran = Ended(cluster, job_id, out, err)
    assert ran.out == b"ran\n"
    cluster.wait_for(lambda: cluster.drained_nodes() == {})


def test_a_sandbox_deleted_from_outside_ends_the_job_and_says_why(cluster, running):
    job_id, out, err = running(script("echo ready; sleep 987\n"))
    cluster.podman("pod", "rm", "-f", "-t", "0", f"slurm-job-{job_id}")
    ran = Ended(cluster, job_id, out, err)
    assert ran.end == ("FAILED", "0:9")
    assert b"deleted from outside" in ran.err


def test_requeue_gets_a_new_sandbox(cluster, submit):
    body = 'echo run $SLURM_RESTART_COUNT; [ -n "$SLURM_RESTART_COUNT" ] || sleep 987\n'
    job_id, out, err = submit(script(body), "--open-mode=append", "--requeue")
    cluster.wait_for(lambda: out.exists() and b"run" in out.read_bytes())
    cluster.scontrol("requeue", str(job_id))
    cluster.start_requeued(job_id)
    ran = Ended(cluster, job_id, out, err)
    assert ran.end == ("COMPLETED", "0:0"), ran.err
    assert ran.out == b"run\nrun 1\n"
    assert cluster.sandboxes() == []


def test_a_stranger_can_neither_enter_nor_read_anothers_sandbox(cluster, running):
    job_id, _, _ = running(script("echo secret > $SBRIDGE_OUTPUTS/s; echo ready; sleep 987\n"))
    node = cluster.job_field(job_id, "BatchHost")
    enter = ["env", f"SLURM_JOB_ID={job_id}", f"SLURMD_NODENAME={node}", "sbridge-run", "/bin/sh"]
    refused = cluster.run_as("bob", [*enter, "-c", "id"])
    assert refused.returncode == 1
    assert "is not yours" in refused.stderr
    spool = cluster.spool / node / "jobs" / f"{job_id}.0"
    for path in (
        spool / "out",
        spool / "request.json",
        spool / "script",
        spool / "out" / "outputs",
    ):
        assert cluster.run_as("bob", ["ls", "-l", str(path / "x")]).returncode != 0
        assert cluster.run_as("bob", ["cat", str(path)]).returncode != 0
    assert cluster.run_as("alice", ["cat", str(spool / "request.json")]).returncode != 0
    (door,) = (spool / "steps").glob("*/door")
    word = ["/bin/sh", "-c", f"echo 'run 1 1 0 sinfo' >{door}"]
    assert "Permission denied" in cluster.run_as("bob", word).stderr
    assert cluster.run_as("alice", word).returncode == 0
    cluster.scancel(job_id)
    cluster.wait_job(job_id)


def test_hooks_are_refused_to_users(cluster):
    address = cluster.agent_socket(cluster.nodes[0])
    code = (
        "import socket,sys; from bridge import wire\n"
        "c=socket.socket(socket.AF_UNIX); c.connect(sys.argv[1])\n"
        "wire.send(c, wire.Message('finish', [('SLURM_JOB_ID', b'1')]))\n"
        "print(wire.receive(c)[0].kind)"
    )
    python = cluster.prefix / "venv" / "bin" / "python"
    ran = cluster.run_as("bob", [str(python), "-I", "-c", code, str(address)])
    assert ran.stdout.strip() == "refused"


def test_supplementary_groups_give_access_inside(run, folder):
    file = folder / "for-research"
    file.write_text("grouped\n")
    shutil.chown(file, "root", "research")
    file.chmod(0o640)
    ran = run(script(f"cat {file}\n"))
    assert ran.out == b"grouped\n"


def test_twenty_jobs_leave_nothing_behind(cluster, submit):
    jobs = [submit(script(f"echo {index}; exit {index}\n")) for index in range(20)]
    ran = [Ended(cluster, *job) for job in jobs]
    assert [r.out for r in ran] == [b"%d\n" % index for index in range(20)]
    assert [r.exit_code for r in ran] == [f"{index}:0" for index in range(20)]
    cluster.wait_until_nothing_is_left()


def test_every_task_of_an_array_runs(cluster, folder):
    body = f"echo $SLURM_ARRAY_TASK_ID > {folder}/task$SLURM_ARRAY_TASK_ID\n"
    cluster.sbatch("alice", script(body), "--array=1-3", "-o", "/dev/null")
    tasks = [folder / f"task{number}" for number in (1, 2, 3)]
    cluster.wait_for(lambda: all(task.exists() for task in tasks), timeout=60)


HOSTILE = """
import os, socket, sys
from bridge import wire
def ask(fields, descriptors):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        base = [("env", b"SLURM_JOB_ID=" + sys.argv[2].encode()), ("arg", b"/bin/true")]
        connection.settimeout(10)
        try:
            wire.send(connection, wire.Message("enter", base + fields), descriptors)
            answer, _ = wire.receive(connection)
        except OSError:
            answer = None
        print(answer.kind if answer else "closed")
null = os.open("/dev/null", os.O_RDWR)
ask([("fd", b"%d" % number) for number in range(64)], [null] * 64)
ask([("env", b"A=" + b"x" * (wire.MAX_MESSAGE_BYTES - 200))], [])
ask([("env", b"A=" + b"x" * (wire.MAX_MESSAGE_BYTES + 1))], [])
ask([("fd", b"600")], [null])
ask([("fd", b"abc")], [null])
"""


def test_no_message_of_a_user_ends_the_agent(cluster, running):
    job_id, _, _ = running(script("echo ready; sleep 987\n"))
    address = cluster.agent_socket(cluster.job_field(job_id, "BatchHost"))
    before = cluster.pids()
    python = str(cluster.prefix / "venv/bin/python")
    command = [python, "-I", "-c", HOSTILE, str(address), str(job_id)]
    answers = cluster.as_user("alice", command).split()
    assert len(answers) == 5
    assert answers[2:] == ["closed", "failed", "failed"]
    assert cluster.run_as("alice", ["test", "-S", str(address)]).returncode == 0
    assert all(Path(f"/proc/{pid}").exists() for pid in before.values())
    cluster.scancel(job_id)
    cluster.wait_job(job_id)
    cluster.wait_for(lambda: cluster.sandboxes() == [])
    assert cluster.drained_nodes() == {}


def test_cancelling_a_pull_that_hangs_frees_the_node_at_once(cluster, submit):
    with socket.create_server(("127.0.0.1", 0)) as registry:
        image = f"#K8S_IMAGE=127.0.0.1:{registry.getsockname()[1]}/x:1\n"
        job_id, out, err = submit(script("echo hi\n", image=image))
        cluster.wait_for(lambda: err.exists() and b"pulling image" in err.read_bytes())
        cluster.scancel(job_id)
        cluster.wait_for(lambda: cluster.job_state(job_id) == "CANCELLED", timeout=15)
    assert out.read_bytes() == b""
    assert cluster.drained_nodes() == {}


def test_a_killed_conmon_holds_no_node(cluster, running):
    job_id, _, _ = running(script("echo ready; sleep 987\n"))
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = line.read_bytes().split(b"\0")
            if words[0].endswith(b"conmon") and b"slurm-job-%d-sandbox" % job_id in words:
                os.kill(int(line.parent.name), signal.SIGKILL)
    cluster.scancel(job_id)
    cluster.wait_for(lambda: cluster.job_state(job_id) == "CANCELLED", timeout=60)
    cluster.wait_for(lambda: cluster.sandboxes() == [])
    assert cluster.drained_nodes() == {}
