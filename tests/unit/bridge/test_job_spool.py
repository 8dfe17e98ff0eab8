from pathlib import Path

import pytest

from bridge.job_spool import JobSpool, NodeSpool, RunId, nas_output_pattern


def test_a_run_is_written_and_read_as_job_and_restart() -> None:
    assert str(RunId(42, 1)) == "42.1"
    assert RunId.parse("42.1") == RunId(42, 1)


@pytest.mark.parametrize(
    "text",
    ["", "42", "42.", ".1", "a.1", "42.1.0", "-1.0", "42.1 ", "４２.1", ".42.new", "42.1.new"],
)
def test_what_is_no_run_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a run"):
        RunId.parse(text)


def test_runs_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    node = NodeSpool.of(tmp_path, "n1")
    for name in ("9.0", "10.1", "10.0", "10.0.removed", "notes", ".9.1.123.new"):
        (node.jobs / name).mkdir(parents=True)
    assert node.runs() == [RunId(9, 0), RunId(10, 0), RunId(10, 1)]


def test_every_path_of_a_run_is_inside_its_folder() -> None:
    node = NodeSpool.of(Path("/spool"), "n1")
    job = node.job(RunId(42, 1))
    assert job.root == Path("/spool/n1/jobs/42.1")
    names = [name for name, kind in vars(JobSpool).items() if isinstance(kind, property)]
    paths = [getattr(job, name) for name in names]
    assert len(set(paths)) == len(names) >= 8
    assert all(path.is_relative_to(job.root) for path in paths)


def test_sbatch_writes_a_nas_jobs_output_where_the_agent_looks_for_it() -> None:
    node = NodeSpool.of(Path("/spool"), "n1")
    pattern = nas_output_pattern(Path("/spool"), "stdout")
    expanded = pattern.replace("%j", "42")
    assert expanded == str(node.out_link(42) / "stdout.log")
    assert node.job(RunId(42, 0)).stdout.name == "stdout.log"
