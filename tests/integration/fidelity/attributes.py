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

ROWS = (
    Row("the environment is Slurm's", _ENVIRONMENT),
    Row(
        "an array task's environment is Slurm's",
        _ENVIRONMENT,
        ("--array=7-8",),
    ),
    Row("--export=NONE", _ENVIRONMENT, ("--export=NONE",)),
    Row("--export=NAME", _ENVIRONMENT, ("--export=NAME=two words,HOME",)),
    Row("--export=ALL,NAME", _ENVIRONMENT, ('--export=ALL,NAME=$x `y` "z" ü',)),
    Row("the folder is the submission's", "pwd; pwd -P; ls\n"),
    Row("--chdir", "pwd; echo here >file\n", ("--chdir=/tmp", "-o", "/dev/null")),
    Row("the umask is the submission's", "umask; touch file; stat -c %a file\n"),
    Row("limits are the submission's", "ulimit -a; ulimit -Ha\n"),
    Row("who one is", "id -u; id -un; id -g; id -G | tr ' ' '\\n' | sort; echo ~; echo $HOME\n"),
    Row("the niceness is the node's", "nice; cut -d' ' -f19 /proc/self/stat\n"),
    Row("the host's name", "hostname; echo $HOSTNAME\n"),
    Row("the time zone", "date +%Z%z; TZ=KST-9 date +%Z%z\n"),
    Row(
        "cgroups of Slurm's step hold the script",
        "grep -oE '(freezer|memory|cpuacct|devices)[^:]*:/slurm_[^/]*/uid_[0-9]*/job_' "
        "/proc/self/cgroup | sed 's/slurm_[^/]*/NODE/' | sort\n",
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
