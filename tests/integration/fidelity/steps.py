"""Rows about steps that a script starts with srun, and Slurm's other commands inside it.

Lines are compared without their order: what srun says and what tasks write come by different
ways. Each step has records of its own in Slurm's accounting, and they are compared, too.
"""

from dataclasses import replace

from tests.integration.fidelity.ends import BY_SHADOW, EAT
from tests.integration.fidelity.row import Row
from tests.integration.fidelity.submission import TWO_PARTS

_TWO = ("-n", "2", "-N", "1")
# The name of a step is its argument; says whether it met the other one.
_MEET = b""">met.$1
tries=0
until [ -e met.1 ] && [ -e met.2 ] || [ $((tries += 1)) = 150 ]; do sleep 0.1; done
echo $1 of $(ls met.* | wc -l)
"""
_UNTIL_READY = "until [ -e ready ]; do sleep 0.1; done\n"

_ROWS = (
    Row("a step of one task", "srun -n1 echo hi; echo $?\n", _TWO),
    Row(
        "a step of all tasks",
        "srun bash -c 'echo task $SLURM_PROCID of $SLURM_NTASKS'\n",
        _TWO,
    ),
    Row("--label", "srun --label echo hi\n", _TWO),
    Row(
        "a task's program is looked for in PATH, then here, and called by where it was found",
        "cp /usr/bin/bash odd; mkdir bin; cp odd bin/y; echo >bin/not-executable\n"
        "printf '#!/bin/sh\\necho not from here\\n' >tac; chmod +x tac; srun -n1 tac </dev/null\n"
        "for each in odd ./odd bin/y bash; do srun -n1 $each -c 'echo $0; no-such'; done\n"
        "PATH=$PWD/bin:$PATH srun -n1 y -c 'echo $0'\n"
        "cd bin; PATH=.:$PATH srun -n1 y -c 'echo $0'; PATH=$PWD:$PATH srun -n1 not-executable\n"
        "srun -n1 ./y -c 'echo $0'; rm y ../odd\n",
        _TWO,
        shows=("/usr/bin/bash: line 1", "'FOLDER/bin/./y', 'FOLDER/bin/y'"),
    ),
    Row(
        "Slurm's commands are found by their full path, and by a PATH of the script's own",
        "for folder in ${PATH//:/ }; do\n"
        "  [[ $folder = /sbridge/* ]] || ! [ -x $folder/srun ] || break\n"
        "done\n"
        "$folder/srun -n1 echo one; PATH=/usr/bin:/bin; $folder/squeue -h -j $SLURM_JOB_ID -o %T\n"
        "PATH=$folder:$PATH; srun -n1 echo two; scontrol show hostnames a[1-2]\n",
        _TWO,
        shows=("one", "two", "RUNNING", "a2"),
    ),
    Row(
        "a step's exit code is its highest",
        "srun bash -c 'exit $((SLURM_PROCID + 3))'; echo $?\n",
        _TWO,
    ),
    Row("a step's death by a signal", "srun -n1 bash -c 'kill -9 $$'; echo $?\n", _TWO),
    Row(
        "a command that is not there",
        "srun -n1 no-such-command; echo $?\n",
        _TWO,
    ),
    Row(
        "a program that cannot be executed says why",
        "printf 'echo no line\\n' >a; printf '#!/bin/bash\\r\\n' >b; echo '#! /no/such -x' >c\n"
        ">d; chmod +x a b c d; for each in a b c d .; do srun -n1 ./$each; echo $each $?; done\n",
        _TWO,
        shows=("bad interpreter(/bin/bash", "bad interpreter( /no/such -x)", "Exec format error"),
    ),
    Row("stdin goes to the first task", "echo given | srun -n2 --input=0 cat\n", _TWO),
    Row("stdin from a file", "echo given >in; srun -n1 cat <in\n", _TWO),
    Row(
        "stdout of steps into files of their own",
        "srun -n2 -o step%s-task%t.out echo hi\n",
        _TWO,
    ),
    Row(
        "patterns name the files of steps",
        "srun -n2 -o %J-%A-%a-%N-%n-%t-%s-%u-%x.out echo hi\n",
        (*_TWO, "-J", "named"),
    ),
    Row("a step's own stderr", "srun -n1 bash -c 'echo out; echo err >&2' 2>err >out\n", _TWO),
    Row(
        "arguments arrive as given",
        "srun -n1 printf '<%s>\\n' 'a b' '' '*' '\"' $'new\\nline' ü\n",
        _TWO,
    ),
    Row(
        "several steps at the same time",
        "for i in 1 2; do srun -n1 --exact --mem=40 bash meet $i & done; wait; rm met.*\n",
        _TWO,
        files={"meet": _MEET},
        shows=("1 of 2", "2 of 2"),
    ),
    Row(
        "--exclusive has steps run at the same time, too",
        "for i in 1 2; do srun -n1 --exclusive --mem=40 bash meet $i & done; wait; rm met.*\n",
        _TWO,
        files={"meet": _MEET},
        shows=("1 of 2", "2 of 2"),
    ),
    Row(
        "a step on two nodes",
        "srun bash -c 'echo $SLURM_NODEID of $SLURM_NNODES on $SLURMD_NODENAME'\n",
        ("-n", "2", "-N", "2"),
    ),
    Row(
        "--multi-prog",
        "printf '0 echo first %%t\\n1 echo second %%o\\n' >programs; srun --multi-prog programs\n",
        _TWO,
    ),
    Row(
        "one task's failure ends the others",
        "srun -K1 bash -c '[ $SLURM_PROCID = 0 ] && exit 5; sleep 60'; echo $?\n",
        _TWO,
    ),
    Row(
        "a step that wants too much memory",
        f"srun -n1 --mem=60 {EAT.strip()}; echo $?\n",
        _TWO,
        differs={"linuxproc": BY_SHADOW},
        instead=("'137'", "Killed"),
    ),
    Row(
        "--overlap shares what a step has",
        "mkfifo gate; srun -n1 --overlap bash -c 'cat gate' & srun -n1 --overlap bash -c "
        "'echo met >gate'; wait\n",
        _TWO,
    ),
    Row(
        "--ntasks-per-node",
        "srun --ntasks-per-node=2 bash -c 'echo $SLURM_PROCID $SLURM_NTASKS_PER_NODE'\n",
        _TWO,
    ),
    Row(
        "sbcast gives each node a copy",
        "echo given >given; sbcast -f given $PWD/copy; cat copy\n",
        _TWO,
    ),
    Row(
        "a file that is not there is the command's own error",
        "sbcast no-such $PWD/copy; echo $?; sbcast /no/such /tmp/copy; echo $?\n"
        "srun -n2 --multi-prog no-such; echo $?\n",
        _TWO,
        shows=("Can't open `no-such`", "Can't open `/no/such`", "file no-such", "'255'"),
    ),
    Row(
        "sbcast to the nodes' own folders",
        "printf '#!/bin/sh\necho ran\n' >given; chmod 750 given; copy=/tmp/$SLURM_JOB_ID\n"
        "sbcast given $copy; echo $?; srun -n1 $copy; stat -c %a $copy; sbcast given $copy\n"
        "echo $?; rm $copy\n",
        ("-N1",),
        differs={"*": "a step makes the copies, which sacct lists"},
        instead=("'ran'", "'750'", "File exists", "'17'"),
    ),
    Row(
        "a step of each part of a heterogeneous job",
        "srun --het-group=0,1 bash -c 'echo $SLURM_PROCID $SLURM_HET_SIZE'\n",
        header=TWO_PARTS,
    ),
    Row("steps are numbered from 0", "srun -n1 bash -c 'echo $SLURM_STEP_ID'\n" * 2, _TWO),
    Row(
        "a step's environment",
        "export MINE='a b'; srun -n1 bash -c 'echo $MINE $SLURM_STEP_NUM_TASKS $SLURM_LOCALID'\n",
        _TWO,
    ),
    Row(
        "SLURM_WORKING_DIR is a step's folder, and --chdir counts before it",
        "mkdir below /tmp/$SLURM_JOB_ID; export SLURM_WORKING_DIR=$PWD/below\n"
        "srun -n1 bash -c 'pwd; echo $SLURM_WORKING_DIR'; srun -n1 -D $PWD pwd\n"
        "SLURM_WORKING_DIR=/tmp/$SLURM_JOB_ID srun -n1 pwd; rmdir /tmp/$SLURM_JOB_ID\n",
        _TWO,
        shows=("'FOLDER/below', 'FOLDER/below'", "/tmp/JOB"),
    ),
    Row(
        "a file of host names is srun's wherever it is",
        "file=/tmp/$SLURM_JOB_ID; scontrol show hostnames | sed p >$file\n"
        "export SLURM_HOSTFILE=$file; srun -n4 -m arbitrary bash -c 'echo $SLURM_PROCID on node "
        "$SLURM_NODEID by $SLURM_HOSTFILE'\nunset SLURM_HOSTFILE; srun -n2 -w $file echo by -w\n"
        "cp $file own; SLURM_HOSTFILE=own srun -n4 -m arbitrary echo by own; rm $file\n",
        ("-N2", "--ntasks-per-node=2"),
        shows=("3 on node 1 by /tmp/JOB", "by -w", "by own"),
    ),
    Row(
        "variables are srun's options",
        "SLURM_LABELIO=1 srun echo labelled; SLURM_STDOUTMODE=out-%t srun echo to a file\n"
        "SLURM_NTASKS=1 srun echo one; SLURM_STDINMODE=none srun -n1 cat </etc/passwd\n"
        # One process for each task: a child of its own might be signalled first, or last.
        "SLURM_KILL_BAD_EXIT=1 srun bash -c '[ $SLURM_PROCID = 1 ] && exit 9; exec sleep 60'\n"
        "echo $?\n",
        _TWO,
        shows=("0: labelled", "out-1"),
    ),
    Row(
        "a script by stdin, in a here-document",
        "srun -n1 bash -s a 'b c' <<'EOF'\necho $#: $2\nEOF\n",
        _TWO,
        shows=("2: b c",),
    ),
    Row(
        "srun reads what a loop was to read",
        "seq 3 | while read -r i; do echo line $i; srun -n1 cat; done\n",
        _TWO,
        shows=("['2', '3', 'line 1']",),
    ),
    Row(
        "who ignores or blocks SIGPIPE, as Python does, runs srun, too",
        "python3 -c 'import os; os.system(\"srun -n1 echo by os.system\")'\n"
        "(trap '' PIPE; srun -n1 echo ignored; squeue -h -j $SLURM_JOB_ID -o %T); "
        "python3 -c 'import os, signal as s; s.pthread_sigmask(s.SIG_BLOCK, {s.SIGPIPE})\n"
        'os.execvp("srun", ["srun", "-n1", "echo", "blocked"])\'; echo $?\n',
        _TWO,
        shows=("by os.system", "ignored", "RUNNING", "blocked"),
    ),
    Row(
        "a closed stdout, or stderr, of srun",
        "srun -n1 bash -c 'echo out; echo err >&2' >&-; echo $?\n"
        "srun -n1 bash -c 'echo out; echo err >&2' 2>&-; echo $?\n",
        _TWO,
    ),
    Row(
        "--open-mode of a step",
        "echo first >kept; srun -n1 --open-mode=append -o kept echo second\n"
        "echo first >lost; srun -n1 --open-mode=truncate -o lost echo second\n",
        _TWO,
        shows=("'kept': ['first', 'second'], 'lost': ['second']",),
    ),
    Row(
        "signals to srun are the step's",
        f"srun -n1 bash step & {_UNTIL_READY}"
        "kill -USR1 $!; until [ -e got ]; do sleep 0.1; done; kill -TERM $!; wait $!; echo $?\n",
        _TWO,
        files={
            # Without a child, which a signal would find now and not then.
            "step": b"mkfifo gate; exec 9<>gate; trap 'echo USR1; >got' USR1; >ready\n"
            b"while :; do read -t 0.1 -u 9; done\n"
        },
        shows=("USR1", "JOB.0|JOB.0|bash|CANCELLED"),
    ),
    Row(
        "srun hears what its script ignores",
        f"trap '' HUP USR2; srun -n1 bash -c '>ready; exec sleep 60' & {_UNTIL_READY}"
        "kill -USR2 $!; wait $!; echo $?\n",
        _TWO,
        shows=("140",),
    ),
    Row(
        "SIGPIPE to srun ends the step",
        f"srun -n1 bash -c '>ready; exec sleep 60' & {_UNTIL_READY}"
        "kill -PIPE $!; wait $!; echo $?\n",
        _TWO,
        shows=("137", "CANCELLED"),
    ),
    Row(
        "a step whose srun is killed",
        f"srun -n1 bash -c '>ready; exec sleep 60' & {_UNTIL_READY}"
        "kill -KILL $!; wait $!; echo $?\n"
        "while squeue -h -s -j $SLURM_JOB_ID -o %i | grep -q '\\.0$'; do sleep 0.1; done\n",
        _TWO,
        shows=("137", "JOB.0|JOB.0|bash|CANCELLED"),
    ),
    Row(
        "a step in the background ends with its job",
        f"srun -n1 bash -c '>ready; exec sleep 60' & {_UNTIL_READY}",
        _TWO,
        shows=("JOB.0|JOB.0|bash|CANCELLED|0:15",),
        differs={"linuxproc": "natively Slurm loses srun, which outlives its script and tells"},
        instead=("JOB.0|JOB.0|bash|CANCELLED|0:15", "'slurm-JOB.out': []"),
    ),
    Row(
        "scancel of a step leaves its job",
        f"srun -n1 bash -c '>ready; exec sleep 60' & {_UNTIL_READY}"
        "scancel $SLURM_JOB_ID.0; wait $!; echo $?; srun -n1 echo goes on\n",
        _TWO,
        shows=("goes on",),
    ),
    Row(
        "steps that run at the same time end each in its own way",
        "for i in 0 1 2 3; do\n"
        '  srun -n1 -N1 --exact --mem=20 -J s$i bash -c ">at.$i; exec sleep 60" & srun[i]=$!\n'
        "  until [ -e at.$i ]; do sleep 0.1; done\ndone; rm at.*\n"
        # It says so when the step has ended while it makes sure.
        "scancel $SLURM_JOB_ID.0 2>/dev/null; wait ${srun[0]}; echo $?\n"
        "scancel -s USR1 $SLURM_JOB_ID.1 2>/dev/null; wait ${srun[1]}; echo $?\n"
        "kill -TERM ${srun[2]}; wait ${srun[2]}; echo $?\n"
        "kill -KILL ${srun[3]}; wait ${srun[3]}; echo $?\n",
        ("-n", "4", "-N", "2", "--ntasks-per-node=2"),
        shows=("138", "JOB.1|JOB.1|s1|CANCELLED|0:10"),
    ),
    Row(
        "sattach shows what a step writes",
        "srun -n1 bash -c '>ready; for n in {1..40}; do echo tick; sleep 0.1; done' >/dev/null &\n"
        f"{_UNTIL_READY}timeout 30 sattach $SLURM_JOB_ID.0 | sort -u; wait\n",
        _TWO,
        shows=("tick",),
    ),
    Row(
        "too much memory of one task ends that one",
        "srun --label bash task; echo $?\n",
        ("-n", "2", "-N", "1", "--mem=200"),
        files={"task": b"[ $SLURM_PROCID = 0 ] || exec " + EAT.encode() + b"sleep 3; echo done\n"},
        shows=("0: done", "OUT_OF_MEMORY"),
        differs={"linuxproc": BY_SHADOW},
        instead=("'137'", "Killed"),
    ),
    Row(
        "srun inside of a step",
        "srun -n1 --overlap bash -c 'srun -n1 --overlap echo inner; exit 3'; echo $?\n",
        _TWO,
        shows=("inner",),
    ),
    Row(
        "short steps, one after the other",
        "for n in {1..20}; do srun -n1 true || echo $n; done; echo done\n",
        _TWO,
        shows=("JOB.19|",),
    ),
    Row(
        "sbatch --wait from inside",
        "sbatch --wait --parsable --mem=50 -o child --wrap 'echo child; exit 3' >/dev/null\n"
        "echo $?\n",
        _TWO,
        shows=("'child': ['child']",),
    ),
    Row("a step's folder", "mkdir below; cd below; srun -n1 pwd\n", _TWO),
    Row("a step of more than there is", "srun -n9 --immediate=1 true; echo $?\n", _TWO),
    Row("srun with an unknown option", "srun --no-such-option true; echo $?\n", _TWO),
    Row(
        "the job's own record from inside",
        "squeue -h -j $SLURM_JOB_ID -o '%T %u %D'\n"
        "scontrol show job $SLURM_JOB_ID | grep -c JobId=\n",
        _TWO,
    ),
    Row("scancel from inside", "echo before; scancel $SLURM_JOB_ID; sleep 30; echo after\n", _TWO),
    Row(
        "--signal warns the steps, and the script not",
        "trap 'echo script' USR1\nsrun -n1 bash -c 'trap \"echo step; sleep 2; exit 3\" USR1; "
        "while :; do sleep 0.2; done'; echo $?\n",
        ("--time=2", "--signal=USR1@30"),
    ),
    Row(
        "a step's time limit",
        "srun -n1 --time=1 sleep 200; echo $?\n",
    ),
)

# Slurm notes the end of a step a little late, perhaps after that of its job.
_LATER = "sleep 1\n"
ROWS = tuple(replace(row, body=row.body + _LATER, in_any_order=True) for row in _ROWS)
