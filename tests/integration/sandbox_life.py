"""An agent's work in small, with its own code and credentials: run as a program by a test.

Arguments: Slurm's node name, a user, an image. One sandbox of the image is made and removed, and
one of an image that is not there is tried.
"""

import sys
import threading
import time

import structlog

from bridge import config_file
from bridge.agent import rehearsal
from bridge.config import Config
from bridge.runtimes.kubernetes.runtime import KubernetesRuntime
from bridge.runtimes.sandbox import UserError

PATIENCE_S = 60
PHASES_S = 1.0  # until what another thread tells has been told


def live(runtime: KubernetesRuntime, settings: Config, node: str, part: rehearsal.Part) -> None:
    job = rehearsal.job_of(part, settings, node)
    job.state.accepted_at = time.time() + PATIENCE_S
    spec = rehearsal.specification(part, job, settings, node, None)
    with rehearsal.furnished(job, settings, node):
        try:
            sandbox = runtime.start(spec, job.spool, job)
        except UserError as error:
            print("never runs:", error.message)
        else:
            print("runs:", spec.name in runtime.names())
            runtime.remove(spec.name, sandbox)
        threading.Event().wait(PHASES_S)


def main(node: str, user: str, image: str) -> None:
    settings = config_file.load(config_file.find_path())
    log = structlog.get_logger()
    runtime = KubernetesRuntime(
        settings.kubernetes, node, PATIENCE_S, PATIENCE_S, log, lambda *_: None
    )
    for job_id, name in enumerate((image, f"{image}-that-is-not-there"), start=1):
        live(runtime, settings, node, rehearsal.Part(name, user, job_id=job_id))
    print("left:", sorted(runtime.names()), sorted(runtime.strays()))


if __name__ == "__main__":
    main(*sys.argv[1:])
