"""How several processes divide the tests."""

from pathlib import Path

import pytest

from tests.work_units import SECONDS, unit_of

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("test", "unit"),
    [
        ("a/test_b.py::test_c[podman-d]", "a/test_b.py"),
        ("a/test_terminals.py::test_c[podman]", "a/test_terminals.py[podman]"),
        ("a/test_slurm_versions.py::test_c", "a/test_slurm_versions.py"),
        (
            "a/test_fidelity.py::test_c[podman-cgroup-a row - of words]",
            "a/test_fidelity.py[podman-cgroup]",
        ),
        ("a/test_fidelity.py::test_c[d-podman-cgroup]", "a/test_fidelity.py[podman-cgroup]"),
    ],
)
def test_a_unit_is_a_file_or_a_place_in_a_file(test, unit):
    assert unit_of(test) == unit


def test_what_is_said_to_take_long_is_there():
    files = {path.name for path in TESTS.rglob("test_*.py")}
    assert {unit.partition("[")[0] for unit in SECONDS} <= files
