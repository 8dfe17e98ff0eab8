"""Rows about ways to submit a script, and about what a script may be."""

from tests.integration.fidelity.row import Row

_LONG_COMMENT = "# " + "x" * 97 + "\n"
# Only the backfill scheduler, which takes its time, starts them; the jobs behind them wait with
# them, hence the partition.
TWO_PARTS = "#SBATCH -pshort -n1 --mem=100\n#SBATCH hetjob\n#SBATCH -pshort -n1 --mem=100\n"
# Others' jobs may go on where it is.
_RESERVE = (
    *("scontrol", "create", "reservation", "ReservationName={name}", "Users=alice"),
    *("StartTime=now", "Duration=10", "NodeCnt=1", "TRES=cpu=1", "Flags=IGNORE_JOBS"),
)


def _first(end: str) -> tuple[str, tuple[str, ...]]:
    """Return a parent that is told by a file."""
    return f"sleep 1; echo first >>order; {end}\n", ()


def _second(kind: str) -> tuple[str, tuple[str, ...]]:
    """Return the body and options of a job that depends on its parent."""
    depends = (f"--dependency={kind}:{{parent}}", "--kill-on-invalid-dep=yes")
    return "echo second >>order\n", depends


ROWS = (
    Row(
        "a script knows its name and arguments",
        'echo "$#"; printf "<%s>\\n" "$@"\n',
        (),
        arguments=("a", "b c", "", "-n", "*", "'\"", "ü\n"),
    ),
    Row("by stdin", "echo $SLURM_JOB_NAME; cat\n", by_stdin=True),
    Row(
        "by stdin, with arguments", 'printf "<%s>\\n" "$@"\n', by_stdin=True, arguments=("a", "b c")
    ),
    Row("--wrap", "echo 'a  b' \"$SLURM_JOB_NAME\" $# ${0##*/}; exit 3", is_wrapped=True),
    Row("--wrap of several lines", "for i in 1 2; do\n  echo $i\ndone\n", is_wrapped=True),
    Row("the script reads itself", 'grep -c . "$0"; basename "$0"; [ -r "$0" ] && echo readable\n'),
    Row(
        "the script finds itself",
        'basename "${BASH_SOURCE[0]}"; type -t "$0"; [ -x "$0" ]; echo $?\n',
    ),
    Row("an interpreter with options", "false; echo not reached\n", interpreter="/bin/bash -e"),
    Row("an interpreter with blanks around it", "echo hi\n", interpreter="  /bin/sh  "),
    Row("sh", "echo ${BASH_VERSION:-none}\n", interpreter="/bin/sh"),
    Row("a login shell", "shopt -q login_shell; echo $?\n", interpreter="/bin/bash -l"),
    Row("env finds the interpreter", "echo hi\n", interpreter="/usr/bin/env bash"),
    Row("env splits options", "false; echo no\n", interpreter="/usr/bin/env -S bash -e"),
    Row(
        "an interpreter that is not there fails the job",
        "echo hi\n",
        ("-o", "/dev/null"),  # the words are not Slurm's
        interpreter="/no/such/interpreter",
    ),
    Row(
        "one that env does not find, too",
        "echo hi\n",
        interpreter="/usr/bin/env no-such-interpreter",
    ),
    Row(
        "one that may not be executed, too",
        "echo hi\n",
        ("-o", "/dev/null"),
        interpreter="/etc/passwd",
    ),
    Row("awk", 'BEGIN { print "hi", ARGC; exit 3 }\n', interpreter="/usr/bin/awk -f"),
    Row("sed, which has no stdin", "s/a/b/\n", interpreter="/bin/sed -f"),
    Row(
        "cat prints the script's own text",
        "hello\n",
        interpreter="/bin/cat",
        differs={"*": "the text has #K8S_ lines, and its first line names sbridge-run"},
        instead=("sbridge-run /bin/cat", "'hello'"),
    ),
    Row("a script without a line's end", "echo hi"),
    Row("bytes that are no UTF-8", "# caf\udce9\nprintf 'caf\\351\\n'\n"),
    Row("four megabytes", _LONG_COMMENT * 40_000 + "echo end\n"),
    Row("a long line", "echo " + "x" * 100_000 + "\n"),
    Row("--job-name", "echo $SLURM_JOB_NAME\n", ("-J", "이름 1")),
    Row(
        "--comment stays the user's",
        # But for the word behind it, which docs/critiques.md names.
        "squeue -h -j $SLURM_JOB_ID -o '<%k>' | sed 's/ *sbridge1?[^>]*//'\n",
        ("--comment=mine, 내 것",),
        shows=("<mine, 내 것>",),
    ),
    Row("--begin", "echo began\n", ("--begin=now+2",)),
    Row(
        "--hold and release",
        "echo began\n",
        ("--hold",),
        then=(("@PENDING", ("scontrol", "release", "{job}")),),
    ),
    Row(
        "one task of an array at a time",
        "mkdir busy || echo not alone; sleep 0.5; rmdir busy; echo $SLURM_ARRAY_TASK_ID\n",
        ("--array=1-3%1",),
    ),
    Row("a step of an array's numbers", "echo $SLURM_ARRAY_TASK_ID\n", ("--array=0-6:3",)),
    Row(
        "singleton waits for the one of the same name",
        "echo second >>order\n",
        ("--dependency=singleton", "-J", "{name}"),
        parent=("sleep 1; echo first >>order\n", ("-J", "{name}")),
        shows=("'first', 'second'",),
    ),
    Row("afterok begins after success", *_second("afterok"), parent=_first("exit 0")),
    Row("afterok never begins after a failure", *_second("afterok"), parent=_first("exit 1")),
    Row("afternotok begins after a failure", *_second("afternotok"), parent=_first("exit 1")),
    Row("afternotok never begins after success", *_second("afternotok"), parent=_first("exit 0")),
    Row("afterany begins after either", *_second("afterany"), parent=_first("exit 1")),
    Row(
        "after begins while the other one runs",
        "touch began; until [ -e seen ]; do sleep 0.1; done\n",
        # Before all others: its parent keeps a CPU until then.
        ("--dependency=after:{parent}", "--partition=urgent"),
        parent=("until [ -e began ]; do sleep 0.1; done; touch seen\n", ()),
    ),
    Row(
        "aftercorr begins task by task",
        "echo $SLURM_ARRAY_TASK_ID\n",
        ("--array=1-3", "--dependency=aftercorr:{parent}", "--kill-on-invalid-dep=yes"),
        parent=("[ $SLURM_ARRAY_TASK_ID != 2 ]\n", ("--array=1-3",)),
    ),
    Row(
        "a job in a reservation",
        "echo $SLURM_JOB_RESERVATION\n",
        ("--reservation={name}",),
        before=(_RESERVE,),
        then=(("@COMPLETED", ("scontrol", "delete", "ReservationName={name}")),),
        shows=("NAME",),
    ),
    Row("--nice", "squeue -h -j $SLURM_JOB_ID -o %y\n", ("--nice=123",)),
    Row(
        "several tasks and CPUs",
        "echo $SLURM_NTASKS $SLURM_CPUS_PER_TASK $SLURM_CPUS_ON_NODE\n",
        ("-n", "1", "-c", "2"),
    ),
    Row(
        "what the header asks for",
        "echo $SLURM_JOB_NAME $SLURM_CPUS_PER_TASK\n",
        header="#SBATCH -J header\n#SBATCH --cpus-per-task=2\n",
    ),
    Row(
        "the command line wins over the header",
        "echo $SLURM_JOB_NAME\n",
        ("-J", "line"),
        header="#SBATCH -J header\n",
    ),
    Row(
        "python",
        "import os, sys\nprint(sys.argv[1:], os.environ['SLURM_JOB_NAME'])\nsys.exit(6)\n",
        interpreter="/usr/bin/env python3",
        arguments=("a b", "c"),
        shows=("|6:0|",),
    ),
    Row(
        "perl",
        'print "perl @ARGV\\n"; exit 8;\n',
        interpreter="/usr/bin/perl",
        arguments=("a b",),
        shows=("|8:0|",),
    ),
    Row("Windows line ends are refused", "echo hi\r\n", is_refused=True),
    Row("a NUL byte is refused", "echo hi\n# \0\n", is_refused=True),
    Row("a bad partition is refused", "echo hi\n", ("--partition=none",), is_refused=True),
    Row(
        "an unknown option is refused",
        "echo hi\n",
        header="#SBATCH --no-such-option\n",
        is_refused=True,
    ),
    Row("more than any node has is refused", "echo hi\n", ("--mem=900G",), is_refused=True),
    Row("--test-only submits nothing", "echo hi\n", ("--test-only",), is_refused=True),
    Row(
        "a heterogeneous job's script runs in its first part",
        "echo $SLURM_HET_SIZE $SLURM_CPUS_PER_TASK_HET_GROUP_0\n",
        header=TWO_PARTS,
    ),
)
