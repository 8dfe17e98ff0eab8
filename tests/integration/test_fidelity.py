"""A sandboxed job is a Slurm job in every respect: the table, row by row.

Each row runs natively and in a sandbox on the same cluster, all of them at once; then each test
compares one. `fidelity/` holds the rows.
"""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.integration.fidelity import attributes, ends, streams, submission
from tests.integration.fidelity.observed import Seen, observe

pytestmark = [pytest.mark.slurm, pytest.mark.podman]

ROWS = (*streams.ROWS, *ends.ROWS, *attributes.ROWS, *submission.ROWS)
PLAIN = "# as many lines as the other\n"
DEMO = "#K8S_IMAGE=localhost/sbridge-demo:latest\n"


@pytest.fixture(scope="module", params=["cgroup", "linuxproc"])
def proctrack(request):
    return request.param


@pytest.fixture(scope="module")
def table(new_cluster, proctrack):
    """Run all rows; returns what was seen by title and side."""
    cluster = new_cluster()
    cluster.up(nodes=2, proctrack=proctrack)
    folder = Path(tempfile.mkdtemp(prefix="fidelity-", dir=cluster.home("alice")))
    folder.chmod(0o755)
    try:
        yield observe(cluster, ROWS, {"native": PLAIN, "sandboxed": DEMO}, folder)
        assert cluster.drained_nodes() == {}
    finally:
        shutil.rmtree(folder)
        cluster.dev_cluster("down", "--purge")


@pytest.mark.parametrize("row", ROWS, ids=[row.title for row in ROWS])
def test_a_job_is_the_same_in_a_sandbox(table, proctrack, row):
    native, sandboxed = table[row.title, "native"], table[row.title, "sandboxed"]
    if reason := row.why_different(proctrack):
        assert native != sandboxed, f"this is the same now, and need not differ: {reason}"
        return
    assert _readable(sandboxed) == _readable(native)


def _readable(seen: Seen) -> dict[str, object]:
    """Return it so that a difference is short to read."""
    files = {
        name: content.decode("utf-8", "backslashreplace") for name, content in seen.files.items()
    }
    lines = {name: text.splitlines() for name, text in files.items()}
    return {"refusal": seen.refusal, "records": seen.records, **lines}
