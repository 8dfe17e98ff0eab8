"""Rows about stdin, stdout and stderr, and the files that they are."""

from tests.integration.fidelity.row import Row

_BOTH = "echo out; echo err >&2\n"
# Once it is compared by its digest, it need not be kept.
_GIGABYTE = """yes 0123456789abcdef | head -c 1G
stat -c %s a.out >size; sha256sum <a.out >digest; : >a.out
"""

ROWS = (
    Row("both streams go to one file by default, in their order", _BOTH * 20),
    Row("each stream has a file of its own", _BOTH, ("-o", "a.out", "-e", "a.err")),
    Row("%j, %x, %u and %% name the files", _BOTH, ("-o", "%x.%u.%j.%%.out", "-e", "%j.err")),
    Row("numbers in patterns are filled up with zeros", _BOTH, ("-o", "%8j.out")),
    Row("%s, %t, %n and %b of a batch step are those of Slurm", _BOTH, ("-o", "%s-%t-%n-%b.out")),
    Row("%J, %N, %A and %a are", _BOTH, ("-o", "%J_%N_%A_%a.out", "-e", "%j_%N.err")),
    Row("--error alone leaves stdout where it is", _BOTH, ("-e", "a.err")),
    Row(
        "--input has patterns, too",
        "cat\n",
        ("-J", "named", "--input=%x-%u"),
        files={"named-alice": b"given\n"},
    ),
    Row("a backslash keeps patterns from being read", _BOTH, ("-o", "\\%j-%x.out")),
    Row(
        "%A and %a tell an array's tasks apart",
        "echo $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT\n",
        ("--array=3,5", "-o", "%A_%a.out"),
    ),
    Row(
        "an array's files are named by default",
        "echo $SLURM_ARRAY_TASK_ID\n",
        ("--array=1-2",),
    ),
    Row(
        "a file that is there is overwritten",
        "echo new\n",
        ("-o", "kept"),
        files={"kept": b"old, and longer than the new\n"},
    ),
    Row(
        "--open-mode=append keeps what is there",
        "echo new\n",
        ("-o", "kept", "--open-mode=append"),
        files={"kept": b"old\n"},
    ),
    Row(
        "--open-mode=truncate does not",
        "echo new\n",
        ("-o", "kept", "--open-mode=truncate"),
        files={"kept": b"old, and longer than the new\n"},
    ),
    Row("stdin is empty by default", "wc -c\nreadlink /proc/self/fd/0\n"),
    Row(
        "--input is the script's stdin",
        "read first; echo got $first; cat\n",
        ("--input=given",),
        files={"given": b"one\ntwo\n\x00three"},
    ),
    Row(
        "each task of an array has an --input of its own",
        "cat\n",
        ("--array=1-2", "--input=%a.in"),
        files={"1.in": b"first\n", "2.in": b"second\n"},
    ),
    Row("--input that is not there fails the job", "echo hi\n", ("--input=absent",)),
    Row(
        "a folder of --output that is not there fails the job", "echo hi\n", ("-o", "absent/a.out")
    ),
    Row("--output=/dev/null and none of it is kept", _BOTH, ("-o", "/dev/null")),
    Row("--output=none is Slurm's word for /dev/null", _BOTH, ("-o", "none")),
    Row(
        "any byte comes through",
        "for i in {1..400}; do printf '\\0\\1\\377\\n\\r%d\\x80' $i; done\n",
    ),
    Row("three megabytes come through", "yes 0123456789abcdef | head -c 3000000\n"),
    Row("a gigabyte comes through", _GIGABYTE, ("-o", "a.out", "-e", "a.err"), is_heavy=True),
    Row("a closed stdout is an error of the write", 'exec 1>&-; echo hi; echo "code $?" >&2\n'),
    Row("a closed stderr is one, too", 'exec 2>&-; echo hi >&2; echo "code $?"\n'),
    Row("who reads no more ends who writes with SIGPIPE", "yes | head -1; echo ${PIPESTATUS[@]}\n"),
    Row("a full disk is an error of the write", 'echo hi >/dev/full; echo "code $?"\n'),
    Row("streams can be opened again by their names", "echo a >/dev/stdout; echo b >/dev/stderr\n"),
    Row("nothing else is open", "cd /proc/self/fd; echo *\n"),
    Row(
        "no signal is blocked or ignored",
        "grep -E '^Sig(Blk|Ign)' /proc/self/status\ncat /proc/$$/status | grep SigIgn\n",
    ),
    Row(
        "what a background process still writes is not waited for",
        "(sleep 3; echo late) & echo done\n",
        then=(("@COMPLETED", ("sleep", "4")),),
        differs={"linuxproc": "natively Slurm loses the process, which outlives its job"},
        instead=("['done']",),
    ),
    Row(
        "Korean names and text come through", "echo 안녕하세요 >결과; echo 끝\n", ("-o", "출력.txt")
    ),
)
