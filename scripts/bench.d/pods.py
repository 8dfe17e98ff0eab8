"""What jobs in Kubernetes pods cost, against Slurm alone and Kubernetes alone."""

import contextlib
import http.client
import json
import os
import re
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measured import KUBERNETES, Cluster, Result, native, percentile

IMAGE = "nas-hub.local:5407/bash:latest"
NAMESPACE = "bench"
SHORT_JOBS = 20
OUTAGE_S = 60
IDLE_S = 20
_CPU = {"limits": {"cpu": "1", "memory": "400Mi"}, "requests": {"cpu": "1", "memory": "400Mi"}}


class Api:
    """The cluster's API by way of `kubectl proxy`, for its administrator."""

    def __init__(self, port: int) -> None:
        self._port = port

    def call(self, method: str, path: str, body: object = None) -> Any:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port)) as connection:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            try:
                told = json.loads(answer.read())
            except http.client.IncompleteRead:  # the proxy breaks off now and then
                if method != "GET":
                    raise
                return self.call(method, path)
        if answer.status >= 300 and answer.status not in (404, 409):
            raise SystemExit(f"bench: {method} {path}: {told.get('message')}")
        return told

    def events(self, path: str) -> Iterator[Any]:
        """Watch a collection from now on."""
        version = self.call("GET", path)["metadata"]["resourceVersion"]
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port)) as connection:
            connection.request("GET", f"{path}?watch=true&resourceVersion={version}")
            yield from map(json.loads, connection.getresponse())


@contextlib.contextmanager
def administered(cluster: Cluster) -> Iterator[Api]:
    """Give access to the API, and a namespace of the bench's own."""
    proxy = subprocess.Popen(
        ["kubectl", "proxy", "--port=0"],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert proxy.stdout is not None
        api = Api(int(re.findall(r":(\d+)", proxy.stdout.readline())[0]))
        api.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
        cluster.wait_for(lambda: api.call("GET", accounts)["items"], "a service account")
        yield api
    finally:
        proxy.terminate()
        proxy.wait()


def sandboxed(body: str) -> str:
    """Return a job script that runs in a pod."""
    return f"#!/bin/bash\n#SBATCH --mem=400\n#K8S_IMAGE={IMAGE}\n{body}"


def start(cluster: Cluster, runs: int) -> list[Result]:
    """From sbatch to the user's first instruction, against bare Slurm plus a bare pod."""
    count = max(5, runs // 2)
    with administered(cluster) as api:
        for _ in range(2):  # the image is there then, and everything warm
            _first_instruction(cluster, sandboxed)
            _pod_start(api)
        spent: dict[str, list[float]] = {"slurm": [], "pod": [], "both": []}
        for _ in range(count):
            spent["slurm"].append(_first_instruction(cluster, native))
            spent["pod"].append(_pod_start(api))
            spent["both"].append(_first_instruction(cluster, sandboxed))
    slurm, pod, both = (statistics.median(spent[kind]) for kind in ("slurm", "pod", "both"))
    ratio = both / (slurm + pod)
    return [
        Result(
            "bare Slurm job, submit to first instruction p50", slurm, "ms", "", True, runs=count
        ),
        Result("bare pod, create to Running p50", pod, "ms", "", True, runs=count),
        Result("sandboxed job, submit to first instruction p50", both, "ms", "", True, runs=count),
        Result("sandboxed / (Slurm + pod)", ratio, "ratio", "<= 1.1", ratio <= 1.1, runs=count),
    ]


def _first_instruction(cluster: Cluster, kind: Any) -> float:
    stamp = cluster.folder() / "stamp"
    begin = time.time()
    cluster.sbatch(kind(f"echo $EPOCHREALTIME > {stamp}\n"), "-o", "/dev/null")
    cluster.wait_for(lambda: stamp.exists() and stamp.read_text().strip(), "the job's start")
    milliseconds = (float(stamp.read_text()) - begin) * 1000
    cluster.wait_until_idle()
    return milliseconds


def _pod(name: str, command: list[str]) -> dict[str, Any]:
    container = {"name": "c", "image": IMAGE, "command": command, "resources": _CPU}
    return {
        "metadata": {"name": name},
        "spec": {
            "hostNetwork": True,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }


def _pod_start(api: Api) -> float:
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    changes = api.events(pods)
    begin = time.time()
    api.call("POST", pods, _pod("bare", ["sleep", "60"]))
    for change in changes:
        if change["object"]["status"].get("phase") == "Running":
            break
    milliseconds = (time.time() - begin) * 1000
    api.call("DELETE", f"{pods}/bare", {"gracePeriodSeconds": 0})
    while api.call("GET", f"{pods}/bare").get("status") != "Failure":
        time.sleep(0.05)
    time.sleep(1)  # the kubelet is done with it, too
    return milliseconds


def short_jobs(cluster: Cluster, _runs: int) -> list[Result]:
    """Twenty short jobs, their ends, and what the agent asked of the API for each."""
    audit = Path(cluster.environment["SBRIDGE_K8S_LOGS"]) / "audit.log"
    with administered(cluster) as api:
        plain_s = _plain_jobs(api)
        before = audit.stat().st_size
        ours_s, ends = _our_jobs(cluster, api)
    asked = _requests(audit, before)
    per_job = sum(asked.values()) / SHORT_JOBS
    ends_ms = percentile(ends, 50)
    return [
        Result("20 plain Kubernetes Jobs", plain_s, "s", "", True),
        Result("20 sandboxed jobs", ours_s, "s", "", True),
        Result("sandboxed / plain", ours_s / plain_s, "ratio", "<= 1", ours_s <= plain_s),
        Result(
            "job's end to pod gone and node free p50", ends_ms, "ms", "<= 1000", ends_ms <= 1000
        ),
        Result(
            "API requests per job beside the watch",
            per_job,
            "",
            "<= 5",
            per_job <= 5,
            requests=dict(asked),
        ),
    ]


def _plain_jobs(api: Api) -> float:
    jobs = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
    begin = time.time()
    for index in range(SHORT_JOBS):
        template = {"spec": _pod("", ["true"])["spec"]}
        api.call("POST", jobs, {"metadata": {"name": f"j{index}"}, "spec": {"template": template}})
    while True:
        items = api.call("GET", jobs)["items"]
        if all(job["status"].get("completionTime") for job in items):
            break
        time.sleep(0.1)
    seconds = time.time() - begin
    api.call("DELETE", jobs, {"propagationPolicy": "Foreground"})
    while api.call("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]:
        time.sleep(0.1)
    return seconds


def _our_jobs(cluster: Cluster, api: Api) -> tuple[float, list[float]]:
    folder = cluster.folder()
    begin = time.time()
    for _ in range(SHORT_JOBS):
        body = f"echo $EPOCHREALTIME > {folder}/$SLURM_JOB_ID\n"
        cluster.sbatch(sandboxed(body), "-o", "/dev/null")
    free: dict[str, float] = {}
    while len(free) < SHORT_JOBS:
        busy = set(cluster.run("squeue", "-h", "-o", "%A").split())
        pods = api.call("GET", "/api/v1/pods?labelSelector=app%3Dslurm-job")["items"]
        busy |= {pod["metadata"]["labels"]["job-id"] for pod in pods}
        for path in folder.iterdir():
            if path.name not in busy:
                free.setdefault(path.name, time.time())
        time.sleep(0.03)
    seconds = time.time() - begin
    ends = [(at - float((folder / job).read_text())) * 1000 for job, at in free.items()]
    return seconds, ends


def _requests(audit: Path, start: int) -> Counter[str]:
    """Count what the agents asked, other than opening their watches."""
    found: Counter[str] = Counter()
    with audit.open() as file:
        file.seek(start)
        for line in file:
            entry = json.loads(line)
            user = entry["user"]["username"]
            if not user.endswith(":sbridge-agent") or entry["stage"] != "ResponseComplete":
                continue
            request = f"{entry['verb']} {entry['objectRef']['resource']}"
            if request not in ("watch pods", "list pods"):
                found[request] += 1
    return found


def agent(cluster: Cluster, _runs: int) -> list[Result]:
    """Look at the agents' memory, and at what they do while nothing happens."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if _is_agent(path, cluster)]
    before = {pid: _cpu_s(pid) for pid in pids}
    time.sleep(IDLE_S)
    share = max((_cpu_s(pid) - before[pid]) / IDLE_S * 100 for pid in pids)
    memory = max(_rss_mib(pid) for pid in pids)
    return [
        Result("agent's memory", memory, "MiB", "<= 120", memory <= 120, processes=len(pids)),
        Result("agent's share of a core when idle", share, "%", "<= 1", share <= 1),
    ]


def _is_agent(path: Path, cluster: Cluster) -> bool:
    try:
        argv = (path / "cmdline").read_bytes()
    except OSError:
        return False
    return b"sbridge-agent" in argv and str(cluster.state).encode() in argv


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def outage(cluster: Cluster, _runs: int) -> list[Result]:
    """Kill the API server for a minute while jobs run, start and end."""
    cpus = int(cluster.run("sinfo", "-h", "-o", "%C").split("/")[-1])
    folder = cluster.folder()
    body = f"sleep $1; echo done > {folder}/$SLURM_JOB_ID\n"
    lengths = [OUTAGE_S // 2] * (cpus // 2) + [OUTAGE_S + 15] * (cpus - cpus // 2) + [1] * cpus
    jobs = [_submit_with(cluster, body, length) for length in lengths]
    cluster.wait_for(
        lambda: cluster.run("squeue", "-h", "-t", "R", "-o", "%A").split().__len__() >= cpus,
        "the start of the jobs",
    )
    time.sleep(2)
    _kill_apiserver(cluster)
    time.sleep(OUTAGE_S)
    subprocess.run(
        [KUBERNETES, "up"], env=cluster.environment, stdout=subprocess.DEVNULL, check=True
    )
    cluster.wait_until_idle()
    lost = sum(not (folder / str(job)).exists() for job in jobs)
    states = cluster.run("sinfo", "-h", "-N", "-o", "%t").split()
    drained = sum("dr" in state for state in states)
    return [
        Result(
            f"jobs lost by {OUTAGE_S} s without the API",
            lost,
            "jobs",
            "= 0",
            not lost,
            of=len(jobs),
        ),
        Result("nodes drained by it", drained, "nodes", "= 0", not drained),
    ]


def _submit_with(cluster: Cluster, body: str, length: int) -> int:
    return cluster.sbatch(sandboxed(body.replace("$1", str(length))), "-o", "/dev/null")


def _kill_apiserver(cluster: Cluster) -> None:
    state = Path(cluster.environment["SBRIDGE_K8S_STATE"])
    record = json.loads((state / "run/daemons/kube-apiserver.json").read_text())
    os.kill(record["pid"], 9)
