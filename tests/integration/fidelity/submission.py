"""Rows about ways to submit a script, and about what a script may be."""

from tests.integration.fidelity.row import Row

_LONG_COMMENT = "# " + "x" * 97 + "\n"

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
    Row("awk", 'BEGIN { print "hi", ARGC; exit 3 }\n', interpreter="/usr/bin/awk -f"),
    Row("sed, which has no stdin", "s/a/b/\n", interpreter="/bin/sed -f"),
    Row(
        "cat prints the script's own text",
        "hello\n",
        interpreter="/bin/cat",
        differs={"*": "the text has #K8S_ lines, and its first line names sbridge-run"},
    ),
    Row("a script without a line's end", "echo hi"),
    Row("bytes that are no UTF-8", "# caf\udce9\nprintf 'caf\\351\\n'\n"),
    Row("four megabytes", _LONG_COMMENT * 40_000 + "echo end\n"),
    Row("a long line", "echo " + "x" * 100_000 + "\n"),
    Row("--job-name", "echo $SLURM_JOB_NAME\n", ("-J", "이름 1")),
    Row("--comment stays the user's", "true\n", ("--comment=mine, 내 것",)),
    Row("--begin", "echo began\n", ("--begin=now+2",)),
    Row(
        "--hold and release",
        "echo began\n",
        ("--hold",),
        then=(("@PENDING", ("scontrol", "release", "{job}")),),
    ),
    Row("one task of an array at a time", "echo $SLURM_ARRAY_TASK_ID\n", ("--array=1-3%1",)),
    Row("a step of an array's numbers", "echo $SLURM_ARRAY_TASK_ID\n", ("--array=0-6:3",)),
    Row("singleton", "echo ran\n", ("--dependency=singleton", "-J", "single")),
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
    ),
    Row(
        "perl",
        'print "perl @ARGV\\n"; exit 8;\n',
        interpreter="/usr/bin/perl",
        arguments=("a b",),
    ),
    Row("Windows line ends are refused", "echo hi\r\n"),
    Row("a NUL byte is refused", "echo hi\n# \0\n"),
    Row("a bad partition is refused", "echo hi\n", ("--partition=none",)),
    Row("an unknown option is refused", "echo hi\n", header="#SBATCH --no-such-option\n"),
    Row("more than any node has is refused", "echo hi\n", ("--mem=900G",)),
    Row("--test-only submits nothing", "echo hi\n", ("--test-only",)),
    Row(
        "a heterogeneous job's script runs in its first part",
        "echo $SLURM_HET_SIZE $SLURM_CPUS_PER_TASK_HET_GROUP_0\n",
        header="#SBATCH -n1 --mem=100\n#SBATCH hetjob\n#SBATCH -n1 --mem=100\n",
    ),
)
