"""Rows about what the script's process has from its parents: environment, place, limits, ids."""

from tests.integration import process_attributes
from tests.integration.fidelity.row import Row

# PATH begins with the image's, SBRIDGE_OUTPUTS and SBRIDGE_DOOR are ours, TMPDIR and the like are
# the job's own: everything else must be the same. What a node or a run gives is left out.
_ENVIRONMENT = (
    "env -0 | sort -z | tr '\\0\\n' '\\n;' | grep -vE '^(PATH|SBRIDGE_(OUTPUTS|DOOR)|_|"
    "SLURM_JOB_COMMENT|SLURM_(JOB_)?NODELIST|SLURMD_NODENAME|SLURM_TOPOLOGY_ADDR|SLURM_TASK_PID|"
    "SLURM_JOB_(START|END)_TIME)='\n"
)

# What tasks have besides, to meet each other (docs/user.md), and what each run's srun chooses.
_RENDEZVOUS = "MASTER_ADDR|MASTER_PORT|WORLD_SIZE|RANK|LOCAL_RANK|NODE_RANK|SBRIDGE_RENDEZVOUS"
_OF_SRUN = "SLURM_(SRUN_COMM|STEP_LAUNCHER)_PORT|SLURM_LAUNCH_NODE_IPADDR|SLURM_STEP_NODELIST"
_PARALLEL = f"{_ENVIRONMENT.rstrip()} | grep -vE '^({_RENDEZVOUS}|{_OF_SRUN})='\n"
_OF_A_TASK = "srun bash look | sort\n"

ROWS = (
    Row("the environment is Slurm's", _ENVIRONMENT),
    Row(
        "an array task's environment is Slurm's",
        _ENVIRONMENT,
        ("--array=7-8",),
    ),
    Row(
        "a parallel job's environment is Slurm's, but for where its tasks meet",
        _PARALLEL,
        ("--nodes=1", "--ntasks=2"),
        shows=("SLURM_NTASKS=2",),
    ),
    Row(
        "a task's environment is Slurm's, but for its rank",
        _OF_A_TASK,
        ("--nodes=1", "--ntasks=2"),
        files={"look": _PARALLEL.encode()},
        shows=("SLURM_PROCID=1",),
        in_any_order=True,
    ),
    Row("--export=NONE", _ENVIRONMENT, ("--export=NONE",)),
    Row("--export=NAME", _ENVIRONMENT, ("--export=NAME=two words,HOME",)),
    Row("--export=ALL,NAME", _ENVIRONMENT, ('--export=ALL,NAME=$x `y` "z" ü',)),
    Row("the folder is the submission's", "pwd; pwd -P; ls\n"),
    Row(
        "--chdir",
        "{ pwd; pwd -P; echo $PWD; } >$SLURM_SUBMIT_DIR/where\n",
        ("--chdir=/tmp", "-o", "/dev/null"),
        shows=("['/tmp', '/tmp', '/tmp']",),
    ),
    Row(
        "--chdir to a folder that is not there",
        "{ pwd; >my.$SLURM_JOB_ID; echo $?; rm my.$SLURM_JOB_ID; } >$SLURM_SUBMIT_DIR/where\n",
        ("--chdir=/no/such/folder", "-o", "/dev/null"),
        shows=("['/tmp', '0']",),
    ),
    Row("the umask is the submission's", "umask; touch file; stat -c %a file\n"),
    Row(
        "limits are the submission's",
        "ulimit -a; ulimit -Ha\n",
        settings="ulimit -S -n 321 -c 0 -s unlimited -u 1234",
        shows=("(-n) 321", "(-u) 1234"),
    ),
    Row(
        "programs run from wherever files are made",
        "for folder in /tmp /var/tmp /dev/shm .; do\n"
        "  file=$(mktemp -p $folder); printf '#!/bin/sh\\necho ran\\n' >$file; chmod +x $file\n"
        "  $file; rm $file\ndone\n",
        shows=("'ran', 'ran', 'ran'",),
    ),
    Row("who one is", "id -u; id -un; id -g; id -G | tr ' ' '\\n' | sort; echo ~; echo $HOME\n"),
    Row(
        "the niceness is the submission's, where Slurm carries it",
        "echo nice=$(nice); cut -d' ' -f19 /proc/self/stat\n",
        settings="renice -n 7 $$ >/dev/null",
        shows=("nice=7",),
    ),
    Row("the host's name", "hostname; echo $HOSTNAME; cat /etc/hostname /etc/hosts\n"),
    # The image's own time zone is another one.
    Row("the time zone", "date +%Z%z; TZ=KST-9 date +%Z%z\n", shows=("KST+0900",)),
    Row(
        "a time zone of the submission's",
        "date -d @1800000000 +%H%Z\n",
        ("--export=ALL,TZ=Asia/Seoul",),
        shows=("17KST",),
    ),
    Row(
        "cgroups of Slurm's step hold the script",
        "sed 's/[^/]*slurm[^/]*/NODE/' /proc/self/cgroup | sort\n",
        shows=("job_JOB",),
        differs={"linuxproc": "the step joins the sandbox's cgroup, which has the limits"},
        instead=("JOB.batch|JOB.batch|batch|COMPLETED|0:0|", ":"),
    ),
    Row(
        "no privilege is held",
        "grep -E 'CapEff|CapPrm' /proc/self/status\n",
    ),
    Row(
        "signals, policies and all else that is inherited is Slurm's",
        process_attributes.body(
            frozenset(
                {
                    *("signals", "policies", "personality", "core dumps and timers"),
                    *("open files", "process group and terminal", "memory to be freed first"),
                }
            )
        ),
    ),
    Row(
        "processes lead no terminal",
        "cut -d' ' -f7 /proc/$$/stat; tty; echo $?; echo $-\n",
    ),
    Row("a function of the submission's shell is the script's", "greet you\n"),
)
