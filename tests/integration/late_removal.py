"""An agent that finds a pod when it starts, and removes it: run as a program by a test.

Arguments: Slurm's node name, the pod's name.
"""

import sys
import time

import structlog

from bridge import config_file
from bridge.errors import TemporaryError
from bridge.runtimes.kubernetes.runtime import KubernetesRuntime

PATIENCE_S = 20
LOOK_S = 0.1


def main(node: str, name: str) -> None:
    settings = config_file.load(config_file.find_path()).kubernetes
    runtime = KubernetesRuntime(
        settings, node, PATIENCE_S, PATIENCE_S, structlog.get_logger(), print
    )
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and name not in names(runtime):
        time.sleep(LOOK_S)
    print(f"found: {sorted(names(runtime))}\n", end="")
    runtime.remove(name)
    print(f"left: {sorted(runtime.names())}\n", end="")


def names(runtime: KubernetesRuntime) -> set[str]:
    try:
        return runtime.names()
    except TemporaryError:  # not listed yet
        return set()


if __name__ == "__main__":
    main(*sys.argv[1:])
