"""What jobs and hooks of one node cost, in Podman sandboxes against none."""

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from glob import glob
from pathlib import Path

from measured import IMAGE, USER, Cluster, Result, native, percentile, sandboxed

GIB = 1 << 30
ENOUGH_FOR_P99 = 100  # of fewer runs the 99th percentile is just the worst one


@contextlib.contextmanager
def timed_hooks(cluster: Cluster) -> Iterator[Path]:
    """Have slurmd run the hooks through a script that notes when each began and ended."""
    folder = cluster.state / "bench-hooks"
    folder.mkdir(exist_ok=True)
    times = folder / "times"
    times.write_text("")
    shipped = cluster.state / "prefix/share/slurm-conf/sbridge.conf"
    before = shipped.read_text()
    after = before
    for hook in ("prolog", "epilog"):
        wrapper = folder / hook
        wrapper.write_text(
            f"#!/bin/bash\nbegin=$EPOCHREALTIME\n{cluster.bin}/sbridge-{hook}\ncode=$?\n"
            f'echo "{hook} $SLURM_JOB_ID $begin $EPOCHREALTIME" >> {times}\nexit $code\n'
        )
        wrapper.chmod(0o755)
        after = after.replace(f"={cluster.bin}/sbridge-{hook}\n", f"={wrapper}\n")
    assert after != before
    try:
        shipped.write_text(after)
        cluster.run("scontrol", "reconfigure")
        yield times
    finally:
        shipped.write_text(before)
        cluster.run("scontrol", "reconfigure")
        shutil.rmtree(folder)


def hooks(cluster: Cluster, runs: int) -> list[Result]:
    """Prolog and Epilog of sandboxed jobs with 1 KB and with 1 GB of output."""
    results = []
    with timed_hooks(cluster) as times:
        for label, size in (("1 KB", 1024), ("1 GB", GIB)):
            times.write_text("")
            for _ in range(max(runs, ENOUGH_FOR_P99)):
                body = f'head -c {size} /dev/zero > "$SBRIDGE_OUTPUTS/data"\n'
                cluster.sbatch(sandboxed(body), "-o", "/dev/null")
                cluster.wait_until_idle()
            lines = [line.split() for line in times.read_text().splitlines()]
            for hook, goal_ms in (("prolog", 40.0), ("epilog", 1000.0)):
                spent = [(float(e) - float(b)) * 1000 for name, _, b, e in lines if name == hook]
                for percent in (50, 99):
                    value = percentile(spent, percent)
                    name = f"{hook} p{percent}, {label} of output"
                    goal = f"<= {goal_ms:g}"
                    results.append(
                        Result(name, value, "ms", goal, value <= goal_ms, runs=len(spent))
                    )
    return results


ENTRY = """
stamp() { now=${EPOCHREALTIME/./}; }
for i in $(seq RUNS); do
  stamp; begin=$now; PYTHON -I -S -c pass; stamp
  echo "bare $((now - begin))"
  stamp; begin=$now
  inside=$(BIN/sbridge-run /bin/bash -c 'echo ${EPOCHREALTIME/./}')
  stamp
  echo "first $((inside - begin))"; echo "whole $((now - begin))"
done
"""


def entry(cluster: Cluster, runs: int) -> list[Result]:
    """From the start of sbridge-run to the user's first instruction, in bare interpreter starts."""
    body = ENTRY.replace("RUNS", str(runs)).replace("BIN", str(cluster.bin))
    body = body.replace("PYTHON", str(cluster.state / "prefix/venv/bin/python"))
    request = f"sbridge1?image={IMAGE.replace('/', '%2F').replace(':', '%3A')}"
    text = cluster.dev_cluster(
        "as", USER, "srun", "--mem=400", "--quiet", f"--comment={request}", "/bin/bash", "-c", body
    )
    spent: dict[str, list[float]] = {"bare": [], "first": [], "whole": []}
    for line in text.splitlines():
        kind, _, microseconds = line.partition(" ")
        spent[kind].append(int(microseconds) / 1000)
    bare, first, whole = (statistics.median(spent[kind]) for kind in ("bare", "first", "whole"))
    return [
        Result("bare interpreter start p50", bare, "ms", "", True, runs=runs),
        Result(
            "sbridge-run to first instruction",
            first / bare,
            "starts",
            "<= 3",
            first / bare <= 3,
            ms=round(first, 1),
        ),
        Result("sbridge-run as a whole", whole / bare, "starts", "", True, ms=round(whole, 1)),
    ]


THROUGHPUT = """
begin=${EPOCHREALTIME/./}
cat SOURCE SOURCE SOURCE SOURCE
echo $((${EPOCHREALTIME/./} - begin)) >&2
"""


def throughput(cluster: Cluster, runs: int) -> list[Result]:
    """Bytes per second to a job's stdout file, sandboxed against native, and their equality."""
    folder = cluster.folder()
    source = folder / "source"
    with source.open("wb") as file:
        for _ in range(256):
            file.write(os.urandom(1 << 20))
    body = THROUGHPUT.replace("SOURCE", str(source))
    ratios, equal = [], True
    kinds = [("native", native(body)), ("sandboxed", sandboxed(body))]
    for _ in range(max(4, runs // 4 // 2 * 2)):
        spent = {}
        kinds.reverse()  # who is second finds the disk at work on what the first has written
        for kind, script in kinds:
            out, err = folder / kind, folder / f"{kind}.err"
            for path in (out, err):
                path.unlink(missing_ok=True)
            os.sync()
            cluster.sbatch(script, "-o", str(out), "-e", str(err))
            cluster.wait_until_idle()
            spent[kind] = int(err.read_text())
        same = subprocess.run(["cmp", folder / "native", folder / "sandboxed"], check=False)
        equal = equal and same.returncode == 0 and (folder / "native").stat().st_size == GIB
        ratios.append(spent["native"] / spent["sandboxed"])
    shutil.rmtree(folder)
    value = statistics.median(ratios)
    return [
        Result(
            "stdout throughput, sandboxed / native",
            value,
            "ratio",
            ">= 0.95",
            value >= 0.95,
            runs=len(ratios),
        ),
        Result("1 GiB of stdout byte for byte equal", float(equal), "", "= 1", equal),
    ]


def leftovers(cluster: Cluster, _runs: int) -> list[Result]:
    """Twenty sandboxed jobs, and what of them is still there when the last has ended."""
    count = 20
    begin = time.monotonic()
    for _ in range(count):
        cluster.sbatch(sandboxed('echo hi > "$SBRIDGE_OUTPUTS/hi"\n'), "-o", "/dev/null")
    cluster.wait_until_idle()
    seconds = time.monotonic() - begin
    cluster.wait_for(lambda: not spool_folders(cluster), "the end of all publications")
    conf = {"CONTAINERS_CONF": str(cluster.state / "etc/containers.conf")}
    podman = [
        "podman",
        f"--root={cluster.state}/podman/root",
        f"--runroot={cluster.state}/podman/run",
    ]
    listed = subprocess.run(
        [*podman, "--cgroup-manager=cgroupfs", "ps", "-aq"],
        env={**os.environ, **conf},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.split()
    mounts = [
        line
        for line in Path("/proc/mounts").read_text().splitlines()
        if f"{cluster.state}/podman/root/overlay/" in line
    ]
    cgroups = glob("/sys/fs/cgroup/**/libpod_parent/*/libpod-*/", recursive=True)
    left = len(listed) + len(mounts) + len(cgroups) + len(spool_folders(cluster))
    return [
        Result(
            "left behind by 20 jobs",
            left,
            "things",
            "= 0",
            left == 0,
            containers=len(listed),
            mounts=len(mounts),
            cgroups=len(cgroups),
            folders=len(spool_folders(cluster)),
        ),
        Result("20 sandboxed jobs one after the other and at once", seconds, "s", "", True),
    ]


def spool_folders(cluster: Cluster) -> list[Path]:
    """Return the folders of runs that are not published yet."""
    return list((cluster.state / "spool/sbridge").glob("*/jobs/*"))


def processed(cluster: Cluster, name: str) -> list[Path]:
    """Return where an accepted job file went."""
    return list((cluster.nas / "slurm-jobs/processed").glob(f"*_{name}"))


def drop(cluster: Cluster, runs: int) -> list[Result]:
    """From a job file's rename into submit/ until slurmctld has taken it."""
    submit = cluster.nas / "slurm-jobs/submit"
    log = cluster.state / "log/slurmctld.log"
    spent = []
    for index in range(runs):
        name = f"bench-{os.getpid()}-{index}.sh"
        rename = 'cat > "$1"; date +%s.%N; mv "$1" "$2"'
        text = cluster.dev_cluster(
            "as",
            USER,
            "sh",
            "-c",
            rename,
            "drop",
            f"{submit}/.{name}",
            f"{submit}/{name}",
            stdin="#!/bin/bash\n#SBATCH --hold\ntrue\n",
        )
        cluster.wait_for(lambda name=name: processed(cluster, name), "the submission")
        job_id = processed(cluster, name)[0].name.split("_")[0]
        pattern = rf"^\[(\S+)\] _slurm_rpc_submit_batch_job: JobId={job_id} "
        accepted = re.search(pattern, log.read_text(), re.MULTILINE)[1]
        spent.append((datetime.fromisoformat(accepted).timestamp() - float(text)) * 1000)
        cluster.run("scancel", job_id)
    cluster.wait_until_idle()
    value = percentile(spent, 50)
    return [
        Result("file dropped to sbatch accepted p50", value, "ms", "<= 50", value <= 50, runs=runs),
        Result(
            "file dropped to sbatch accepted p99", percentile(spent, 99), "ms", "", True, runs=runs
        ),
    ]
