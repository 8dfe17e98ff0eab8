"""Where the tasks of a parallel job meet, and what each is called there: MASTER_ADDR and its kin.

PyTorch's names, which other frameworks read too. A job with one node and one task has nobody to
meet and gets none. What the user set stays; what sbridge itself set for an outer step is known
by SBRIDGE_RENDEZVOUS and replaced, for a step's tasks inherit their script's environment.
"""

import socket
from collections.abc import Collection

from bridge.agent.job import JobRun

# Below what Linux gives to clients (from 32768) and Kubernetes to services (from 30000).
_LOWEST_PORT = 20000
_PORTS = 10000
_OURS = b"SBRIDGE_RENDEZVOUS"
_OF_TASKS = {
    b"RANK": b"SLURM_PROCID",
    b"LOCAL_RANK": b"SLURM_LOCALID",
    b"NODE_RANK": b"SLURM_NODEID",
}


def free_port(job_id: int, taken: Collection[int]) -> int:
    """Return a TCP port that nobody on this node listens on, 0 when there is none.

    Where the search begins depends on the job, so that agents which share a host differ.
    """
    for offset in range(_PORTS):
        port = _LOWEST_PORT + (job_id + offset) % _PORTS
        if port not in taken and _is_free(port):
            return port
    return 0


def _is_free(port: int) -> bool:
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            probe = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # a node without IPv6
        with probe:
            try:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
            except OSError:
                return False
    return True


def extended(given: list[bytes], job: JobRun, *, is_batch: bool) -> list[bytes]:
    """Return a step's environment with the variables that it lacks.

    The batch script gets the place only, tasks their ranks as well.
    """
    environment = {name: value for name, _, value in (pair.partition(b"=") for pair in given)}
    earlier = set(environment.pop(_OURS, b"").split(b","))
    for name in [n for n, value in environment.items() if n + b"=" + value in earlier]:
        del environment[name]
    added = {
        name: value
        for name, value in _variables(environment, job, is_batch=is_batch).items()
        if name not in environment
    }
    pairs = [name + b"=" + value for name, value in added.items()]
    if pairs:
        environment |= added | {_OURS: b",".join(pairs)}
    return [name + b"=" + value for name, value in environment.items()]


def _variables(
    environment: dict[bytes, bytes], job: JobRun, *, is_batch: bool
) -> dict[bytes, bytes]:
    tasks = environment.get(b"SLURM_NTASKS", b"")
    if not is_batch:
        tasks = environment.get(b"SLURM_STEP_NUM_TASKS", tasks)
    is_parallel = len(job.request.node_names) > 1 or (tasks.isdigit() and int(tasks) > 1)
    if not is_parallel or job.state.sandbox is None:
        return {}
    result = {}
    if job.state.master_port and job.state.master_addr:
        result[b"MASTER_ADDR"] = job.state.master_addr.encode()
        result[b"MASTER_PORT"] = b"%d" % job.state.master_port
    if not is_batch:
        result[b"WORLD_SIZE"] = tasks
        result |= {name: environment.get(source, b"") for name, source in _OF_TASKS.items()}
    return {name: value for name, value in result.items() if value}
