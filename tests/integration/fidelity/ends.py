"""Rows about how jobs end: by themselves, by signals, by Slurm."""

import signal

from tests.integration.fidelity.row import Row

_CODES = "0,1,2,3,42,63,64,100,125,126,127,128,129,130,137,143,192,254,255"
_NOT_DEADLY = "CHLD CONT URG WINCH STOP TSTP TTIN TTOU".split()
_DEADLY = ",".join(
    str(number.value)
    for number in sorted(signal.Signals)
    if number.name.removeprefix("SIG") not in _NOT_DEADLY
)
# Bounded, for where nothing else bounds it.
EAT = "awk 'BEGIN { x = \"0123456789abcdef\"; while (length(x) < 4e8) x = x x }'\n"
# Without a child, which a signal would find now and not then.
_IDLE = "while :; do read -t 0.1 -u 9; done"
_WAIT = f"mkfifo gate; exec 9<>gate; echo ready; {_IDLE}\n"
_AGAIN = "echo run ${SLURM_RESTART_COUNT:-0}\n[ ${SLURM_RESTART_COUNT:-0} = 1 ] && exit 4\n" + _WAIT
_TRAP = "trap 'echo shell {name}; exit {code}' {name}\n"
_CANCEL = ("scancel", "{job}")
# Slurm keeps a requeued job back for two minutes.
_START = ("scontrol", "update", "JobId={job}", "StartTime=now")
BY_SHADOW = "without cgroups Slurm knows sbridge-run only; the sandbox's limit ends the process"

ROWS = (
    Row(
        "exit codes are kept",
        "exit $SLURM_ARRAY_TASK_ID\n",
        (f"--array={_CODES}",),
        shows=("|42:0|",),
    ),
    Row(
        "every exit code is kept", "exit $SLURM_ARRAY_TASK_ID\n", ("--array=0-255",), is_heavy=True
    ),
    Row(
        "death by each deadly signal is kept",
        "ulimit -c 0; kill -$SLURM_ARRAY_TASK_ID $$; sleep 5\n",
        (f"--array={_DEADLY}",),
        shows=("|0:9|",),
    ),
    Row("the last command's code is the script's", "true; false\n"),
    Row("a child's death is the shell's code", "sh -c 'kill -9 $$'; echo $?; exit 7\n"),
    Row("a command that is not there is 127", "no-such-command; echo $?\n", interpreter="/bin/sh"),
    Row("set -e ends the script", "set -e; false; echo not reached\n"),
    Row("a faulty script fails", "if then\n"),
    Row("scancel of a job that waits", "echo never\n", ("--hold",), then=(("@PENDING", _CANCEL),)),
    Row("scancel of a job that runs", _WAIT, then=(("ready", _CANCEL),), shows=("CANCELLED",)),
    Row(
        "scancel is TERM for the script, which may end as it likes",
        _TRAP.format(name="TERM", code=0) + _WAIT,
        then=(("ready", _CANCEL),),
        shows=("shell TERM",),
    ),
    Row(
        "who ignores TERM is killed",
        "trap 'echo TERM again' TERM\n" + _WAIT,
        then=(("ready", _CANCEL),),
        shows=("TERM again", "CANCELLED"),
    ),
    Row(
        "scancel of a job that is completing changes nothing",
        "trap 'echo TERM' TERM\n" + _WAIT,
        then=(("ready", ("sh", "-c", "scancel {job}; scancel {job}")),),
    ),
    Row(
        "scancel --batch signals the shell alone",
        _TRAP.format(name="USR1", code=9)
        + 'mkfifo own; bash -c \'trap "echo child" USR1; exec 9<>own; '
        + f"{_IDLE}' &\n"
        + _WAIT,
        then=(("ready", ("scancel", "--batch", "--signal=USR1", "{job}")),),
        shows=("shell USR1",),
    ),
    Row(
        "scancel --batch passes on even that by which children's ends are told",
        "import signal, sys, time\n"
        "signal.signal(17, lambda *_: sys.exit('told'))\nprint('ready', flush=True)\n"
        "time.sleep(60)\n",
        interpreter="/usr/bin/env python3",
        then=(("ready", ("scancel", "--batch", "--signal=17", "{job}")),),
        shows=("told", "|1:0|"),
    ),
    Row(
        "scancel --full signals shell and children",
        "mkfifo gate; exec 9<>gate; trap 'wait; echo shell; exit 5' USR1\n"
        f"bash -c 'trap \"echo child; exit\" USR1; echo ready; {_IDLE}' &\n{_IDLE}\n",
        then=(("ready", ("scancel", "--full", "--signal=USR1", "{job}")),),
        in_any_order=True,
    ),
    Row(
        "scancel --signal reaches nobody in a job of one batch step",
        "trap 'echo USR1' USR1\n" + "echo ready; sleep 6; echo done\n",
        then=(("ready", ("scancel", "--signal=USR1", "{job}")),),
    ),
    Row(
        "scancel --signal=KILL",
        _WAIT,
        then=(("ready", ("scancel", "--signal=KILL", "{job}")),),
    ),
    Row(
        "scancel --batch --signal=KILL ends the shell, and with it the job",
        _WAIT,
        then=(("ready", ("scancel", "--batch", "--signal=KILL", "{job}")),),
    ),
    Row(
        "a trap ends wait, which can be taken up again",
        "trap 'echo trapped' USR1; (exec sleep 5) & echo ready\n"
        "for i in 1 2; do wait $!; echo $?; done\n",
        then=(("ready", ("sh", "-c", "sleep 1; scancel --batch --signal=USR1 {job}")),),
        shows=("trapped", "138"),
    ),
    Row(
        "a task of an array cancels the others",
        "if [ $SLURM_ARRAY_TASK_ID = 1 ]; then\n"
        "  until [ -e at.2 ] && [ -e at.3 ]; do sleep 0.1; done\n"
        "  scancel ${SLURM_ARRAY_JOB_ID}_2 ${SLURM_ARRAY_JOB_ID}_3; exit\nfi\n"
        "gate=gate.$SLURM_ARRAY_TASK_ID; mkfifo $gate; exec 9<>$gate\n"
        "trap 'echo TERM; exit 3' TERM; >at.$SLURM_ARRAY_TASK_ID\n"
        f"{_IDLE}\n",
        ("--array=1-3", "-o", "task%a.out", "-e", "/dev/null"),
        shows=("TERM", "CANCELLED"),
    ),
    Row(
        "the time limit ends the job",
        "trap 'echo TERM' TERM\n" + _WAIT,
        ("--time=1",),
        shows=("TIMEOUT",),
    ),
    Row(
        "--signal=B: warns the shell before the time limit",
        # Newer releases send CONT, too, and say so when nobody is there any more.
        "trap 'echo USR1; sleep 2; exit 3' USR1\n" + _WAIT,
        # Slurm sends it up to half a minute early: not before the shell has its trap.
        ("--time=1", "--signal=B:USR1@10"),
        shows=("USR1", "|3:0|"),
    ),
    Row(
        "too much memory is OUT_OF_MEMORY",
        EAT,
        ("--mem=100",),
        shows=("OUT_OF_MEMORY",),
        differs={"linuxproc": BY_SHADOW},
        instead=("Killed",),
    ),
    Row(
        "too much memory of a child is OUT_OF_MEMORY, whatever the shell says",
        f"({EAT.strip()}); echo $?; exit 0\n",
        ("--mem=100",),
        shows=("OUT_OF_MEMORY",),
        differs={"linuxproc": BY_SHADOW},
        instead=("Killed",),
    ),
    Row(
        "a requeued job runs again and knows it",
        _AGAIN,
        ("--requeue", "--open-mode=append"),
        then=(("ready", ("scontrol", "requeue", "{job}")), ("@PENDING", _START)),
        shows=("run 0", "run 1", "|4:0|"),
    ),
    Row(
        "a job that requeues itself goes on from what it kept",
        "echo run ${SLURM_RESTART_COUNT:-0} from $(cat kept 2>/dev/null)\n"
        "[ ${SLURM_RESTART_COUNT:-0} = 1 ] && exit 4\n"
        "trap 'echo here >kept; scontrol requeue $SLURM_JOB_ID' USR1\n" + _WAIT,
        ("--requeue", "--open-mode=append"),
        then=(
            ("ready", ("scancel", "--batch", "--signal=USR1", "{job}")),
            ("@PENDING", _START),
        ),
        shows=("run 1 from here", "|4:0|"),
    ),
    Row(
        "requeuehold keeps it, scancel ends it",
        _WAIT,
        ("--requeue",),
        then=(("ready", ("scontrol", "requeuehold", "{job}")), ("@PENDING", _CANCEL)),
    ),
    Row(
        "requeuehold and release have it run again",
        _AGAIN,
        ("--requeue", "--open-mode=append"),
        then=(
            ("ready", ("scontrol", "requeuehold", "{job}")),
            ("@PENDING", ("scontrol", "release", "{job}")),
            ("@PENDING", _START),
        ),
        shows=("run 0", "run 1", "|4:0|"),
    ),
    Row(
        "--no-requeue keeps it from being requeued",
        _WAIT,
        ("--no-requeue",),
        then=(("ready", ("scontrol", "requeue", "{job}")), ("ready", _CANCEL)),
    ),
    Row(
        "suspended and resumed, it ends as ever",
        "echo ready; sleep 6; echo done\n",
        then=(
            ("ready", ("scontrol", "suspend", "{job}")),
            ("@SUSPENDED", ("scontrol", "resume", "{job}")),
        ),
        shows=("done",),
    ),
)
