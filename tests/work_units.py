"""Which tests one process runs as a whole, and which of these it begins with: the longest ones.

A file's tests stay together, for they share a cluster, and some change it. Of those that make a
cluster for each place of a table, each place is a unit. What is long comes first, or one process
would be at it long after the others.
"""

import re
from pathlib import PurePath

from xdist.scheduler.loadscope import LoadScopeScheduling
from xdist.workermanage import WorkerController

# Seconds on two cores, beside others, of what takes more than half a minute. Wrong ones cost time,
# and nothing else.
SECONDS = {
    "test_steps.py": 350,
    "test_kubernetes_waiting.py": 300,
    "test_fidelity.py[podman-cgroup]": 300,
    "test_fidelity.py[kubernetes-cgroup]": 350,
    "test_kubernetes_cluster.py": 220,
    "test_sandboxed_job.py": 200,
    "test_dev_cluster.py": 200,
    "test_kubernetes_faults.py": 200,
    "test_kubernetes_reconciliation.py": 180,
    "test_kubernetes_jobs.py": 150,
    "test_user_namespaces.py": 120,
    "test_slurm_versions.py": 120,  # in one process: a machine has one auth/slurm at a time
    "test_kubernetes_pods.py": 120,
    "test_stopped_jobs.py[podman]": 120,
    "test_stopped_jobs.py[kubernetes]": 120,
    "test_mpi.py": 120,
    "test_fidelity.py[kubernetes-linuxproc]": 120,
    "test_fidelity.py[podman-linuxproc]": 100,
    "test_kubernetes_site.py": 100,
    "test_watcher.py": 90,
    "test_multi_node.py": 80,
    "test_image_links.py": 70,
    "test_kubernetes_credentials.py": 60,
    "test_accounting.py": 60,
    "test_kubernetes_mpi.py": 60,
    "test_publish.py": 60,
    "test_kubernetes_devices.py": 50,
    "test_process_attributes.py": 50,
    "test_results.py": 50,
    "test_terminals.py[kubernetes]": 50,
    "test_install.py": 40,
    "test_directives.py": 40,
    "test_bad_image.py": 30,
    "test_daemon.py": 30,
    "test_gpus.py": 30,
    "test_job_submit.py": 30,
    "test_kubernetes_rehearsal.py": 30,
    "test_node_fault.py": 30,
    "test_terminals.py[podman]": 30,
}
_OF_ONE_TEST = 0.1
# Files whose tests are run in several places, each with a cluster of its own, and what of a test's
# parameters names its place.
_PLACES = {
    "test_fidelity.py": re.compile(r"(podman|kubernetes)-(cgroup|linuxproc)"),
    "test_stopped_jobs.py": re.compile(r"podman|kubernetes"),
    "test_terminals.py": re.compile(r"podman|kubernetes"),
}


class LongestFirst(LoadScopeScheduling):
    """Hands out units; whoever is free takes the longest that is left.

    Half of the processes begin with units on pods, and each keeps to its kind as long as there are
    such: a Kubernetes takes half a minute to come up, and a tenth of a core from then on.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        wants_pods = self._wants_pods(node)

        def worth(unit: str) -> tuple[bool, float]:
            return _is_on_pods(unit) == wants_pods, self._seconds(unit)

        self.workqueue.move_to_end(max(self.workqueue, key=worth), last=False)
        super()._assign_work_unit(node)

    def _wants_pods(self, node: WorkerController) -> bool:
        """Whether the process has pods already, or begins and is one of those that are to."""
        if self.assigned_work[node]:
            return any(map(_is_on_pods, self.assigned_work[node]))
        return self.nodes.index(node) % 2 == 0

    def _seconds(self, unit: str) -> float:
        guessed = _OF_ONE_TEST * len(self.workqueue[unit])
        return SECONDS.get(PurePath(unit).name, guessed)

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def unit_of(nodeid: str) -> str:
    """Return a test's unit: its file, or its place in a file whose tests are run in several."""
    file, _, test = nodeid.partition("::")
    pattern = _PLACES.get(PurePath(file).name)
    place = pattern.search(test, test.find("[") + 1) if pattern else None
    return f"{file}[{place[0]}]" if place else file


def _is_on_pods(unit: str) -> bool:
    name = PurePath(unit).name
    return "kubernetes" in name or "user_namespaces" in name
