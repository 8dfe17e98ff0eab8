"""Record what a Slurm answers to bridge.slurm, for the contract tests: run as a program, as root.

    SBRIDGE_DEV_STATE=/var/tmp/sbridge-record scripts/dev-cluster up --slurm 24.11
    SBRIDGE_DEV_STATE=/var/tmp/sbridge-record VENV/bin/python -m tests.contract.record_slurm

The answers go to tests/contract/slurm/<release>.json, without this machine's paths. The jobs are
those whose ids are recorded with them.
"""

import json
import os
import pwd
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge import command, config_file
from bridge.slurm import table
from bridge.slurm.jobs import SlurmControl
from bridge.slurm.lookup import SubmissionLookup
from tests.contract.recorded_slurm import ANSWERS, MARK, NAME, OWN_EXTRA, TAG, question
from tests.integration.running_cluster import Cluster

WAITS = "#!/bin/sh\nsleep 60\n"
IMAGE = "#K8S_IMAGE=localhost/sbridge-demo:latest\n"
FAILS = f"#!/bin/sh\n{IMAGE}head -c 20000000 /dev/zero | sort; sleep 3; exit 3\n"
KEPT = re.compile(
    r"^(?:AccountingStoreFlags|SlurmdSpoolDir|SLURM_VERSION|DBD Agent queue size).*", re.MULTILINE
)


def main() -> None:
    state = Path(os.environ["SBRIDGE_DEV_STATE"])
    cluster = Cluster(state)
    answers: dict[str, str] = {}
    ask = command.run

    def ask_and_record(argv: Sequence[str], **options: Any) -> Any:
        ended = ask(argv, **options)
        text = ended.stdout.replace(str(state), "/srv/dev")
        if "config" in argv or "sdiag" in argv[0]:
            text = "\n".join(KEPT.findall(text)) + "\n"
        answers[question(argv)] = text
        return ended

    jobs = _submit(cluster)
    table.new_mark = lambda: MARK
    command.run = ask_and_record
    _ask_everything(cluster, jobs)
    release = re.search(r"SLURM_VERSION\s*=\s*(\d+\.\d+)", cluster.scontrol("show", "config"))
    assert release
    record = {"jobs": jobs, "nodes": cluster.nodes, "answers": answers}
    path = ANSWERS / f"{release[1]}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    cluster.slurm("scancel", "--user=alice")


def _submit(cluster: Cluster) -> dict[str, int]:
    """Have alice submit one job of each kind, and wait until each is where it belongs."""
    extra = [] if cluster.request_field == "Comment" else [f"--extra={OWN_EXTRA}"]
    named = ["-J", NAME, "--comment=my Extra=own", "-o", "/home/alice/contract-%j.out", *extra]
    jobs = {
        "failed": cluster.sbatch("alice", FAILS, "--mem=200", *named),
        "array": cluster.sbatch(
            "alice", WAITS, "--hold", "-a", "1-2", f"--comment=x sbridge1?tag={TAG}"
        ),
    }
    cluster.wait_job(jobs["failed"], "FAILED")
    image = WAITS.replace("\n", f"\n{IMAGE}", 1)
    jobs["running"] = cluster.sbatch("alice", image, "-N2", "-n3", "--mem-per-cpu=100", *named)
    cluster.wait_job(jobs["running"], "RUNNING")
    cluster.wait_for(lambda: cluster.accounting(jobs["failed"]).get("State") == "FAILED")
    return jobs


def _ask_everything(cluster: Cluster, jobs: dict[str, int]) -> None:
    settings = config_file.load(cluster.state / "etc/sbridge.toml").slurm
    control, lookup = SlurmControl(settings), SubmissionLookup(settings)
    node = cluster.nodes[0]
    for job_id in jobs.values():
        control.job(job_id)
        control.accounted(job_id)
    control.prolog_variables(jobs["running"], node)
    control.jobs_on(node)
    control.nodes()
    control.slurmd_spool_dir(node)
    control.drain(node, "no disk is free")
    control.is_drained_by_us(node)
    control.resume(node)
    cluster.wait_for(lambda: "DBD Agent queue size: 0" in cluster.slurm("sdiag"))
    uid = pwd.getpwnam("alice").pw_uid
    lookup.find(uid, {TAG, "unknown"}, time.time())


if __name__ == "__main__":
    main()
