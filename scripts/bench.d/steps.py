"""What steps of a sandboxed job cost, against the same steps of the same job without a sandbox."""

import json
import statistics
import time
from datetime import datetime
from urllib.parse import quote

from measured import IMAGE, USER, Cluster, Result, native, percentile, sandboxed

TASKS = 100
TASK_S = 2
TASKS_OF_STEP = 16

# Runs as a step without a sandbox; INSIDE runs in the job's sandbox and does what it is told.
# Each round does everything once: whatever else the machine does meanwhile hits all alike. Its
# name makes it a batch script to sbridge-run.
NAME = "slurm_script"
STEPS = """#!/bin/bash
set -e
stamp() { now=${EPOCHREALTIME/./}; }
if [ "$1" = first ]; then stamp; echo $now; exit; fi
srun() { command srun --quiet --overlap --overcommit "$@"; }
inside='
  set -e
  srun() { command srun --quiet --overlap --overcommit "$@"; }
  while read -r tasks; do
    begin=${EPOCHREALTIME/./}; srun -n$tasks true </dev/null; echo $((${EPOCHREALTIME/./} - begin))
  done'
coproc INSIDE { exec RUNNER /bin/bash -c "$inside"; }
in_sandbox() { echo $1 >&${INSIDE[1]}; read -r -u ${INSIDE[0]} spent; echo "$2 $spent"; }
measure() { name=$1; shift; stamp; begin=$now; "$@"; stamp; echo "$name $((now - begin))"; }
first() { name=$1; shift; stamp; begin=$now; echo "$name $(($("$@" $0 first) - begin))"; }
in_sandbox 1 warm-up
for i in $(seq RUNS); do
  first script-native /bin/bash
  first script-sandboxed RUNNER /bin/bash
  for tasks in 1 MANY; do
    measure native-$tasks srun -n$tasks true
    measure outside-$tasks srun -n$tasks RUNNER /bin/true
    in_sandbox $tasks inside-$tasks
  done
done
"""


def steps(cluster: Cluster, runs: int) -> list[Result]:
    """Batch script and srun of one task and of sixteen, natively and in a sandbox that exists."""
    path = cluster.folder() / NAME
    script = STEPS.replace("RUNNER", str(cluster.bin / "sbridge-run"))
    script = script.replace("RUNS", str(runs)).replace("MANY", str(TASKS_OF_STEP))
    request = f"--comment=sbridge1?image={quote(IMAGE, safe='')}"
    path.write_text(script)
    options = ("--quiet", "--mem=1000", "-n1", "-c2", request)
    text = cluster.dev_cluster("as", USER, "srun", *options, "/bin/bash", str(path))
    spent: dict[str, list[float]] = {}
    for line in text.splitlines():
        kind, _, microseconds = line.partition(" ")
        spent.setdefault(kind, []).append(int(microseconds) / 1000)
    name = "batch script, exec to its first instruction"
    results = _compared(name, spent["script-native"], spent["script-sandboxed"], runs)
    for tasks in (1, TASKS_OF_STEP):
        plain = spent[f"native-{tasks}"]
        name = f"srun -n{tasks} true"
        results += _compared(f"{name}, from outside", plain, spent[f"outside-{tasks}"], runs)
        results += _compared(f"{name}, from inside", plain, spent[f"inside-{tasks}"], runs)
    return results


def _compared(
    name: str, plain: list[float], ours: list[float], runs: int, most_ms: float = 60
) -> list[Result]:
    native_ms, sandboxed_ms = percentile(plain, 50), percentile(ours, 50)
    added = sandboxed_ms - native_ms
    return [
        Result(f"{name}: native p50", native_ms, "ms", "", True, runs=runs),
        Result(f"{name}: sandboxed p50", sandboxed_ms, "ms", "", True, runs=runs),
        Result(
            f"{name}: added",
            added,
            "ms",
            f"<= {most_ms:g}",
            added <= most_ms,
            ratio=round(sandboxed_ms / native_ms, 2),
        ),
    ]


def array(cluster: Cluster, _runs: int) -> list[Result]:
    """Run an array of a hundred tasks of two seconds: all of it, and from when sandboxes exist."""
    makespan: dict[str, float] = {}
    task: dict[str, float] = {}
    for kind, script in (("native", native), ("sandboxed", sandboxed)):
        times = cluster.folder() / "times"
        body = (
            f"begin=$EPOCHREALTIME; sleep {TASK_S}\n"
            f"echo $SLURM_JOB_ID $begin $EPOCHREALTIME >>{times}\n"
        )
        begin = time.time()
        cluster.sbatch(script(body), f"--array=1-{TASKS}", "-o", "/dev/null")
        cluster.wait_until_idle()
        makespan[kind] = time.time() - begin
        began = _ready_times(cluster) if kind == "sandboxed" else {}
        lines = [line.split() for line in times.read_text().splitlines()]
        if len(lines) != TASKS:
            raise SystemExit(f"bench: {len(lines)} of {TASKS} tasks have ended")
        spent = [float(end) - began.get(job, float(first)) for job, first, end in lines]
        task[kind] = statistics.mean(spent)
    ratio = task["sandboxed"] / task["native"]
    whole = makespan["sandboxed"] / makespan["native"]
    name = f"array of {TASKS} tasks of {TASK_S} s"
    return [
        Result(f"{name}, makespan: native", makespan["native"], "s", "", True),
        Result(f"{name}, makespan: sandboxed", makespan["sandboxed"], "s", "", True),
        Result(f"{name}, makespan: sandboxed / native", whole, "ratio", "", True),
        Result(
            "its tasks, sandbox ready to end / native",
            ratio,
            "ratio",
            "<= 1.05",
            ratio <= 1.05,
            native_s=round(task["native"], 3),
            sandboxed_s=round(task["sandboxed"], 3),
        ),
    ]


def _ready_times(cluster: Cluster) -> dict[str, float]:
    """Return when the agents had the sandbox of each job ready, by job id."""
    found = {}
    for log in (cluster.state / "log").glob("agent-*.log"):
        for entry in map(json.loads, log.read_text().splitlines()):
            if entry["event"] == "sandbox_ready":
                at = datetime.fromisoformat(entry["timestamp"]).timestamp()
                found[entry["run"].partition(".")[0]] = at
    return found
