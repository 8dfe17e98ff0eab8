"""What the environment of a sandboxed script becomes for a Slurm command on the node."""

import pytest

from bridge.slurm import hidden


def test_the_loaders_variables_have_other_names_on_the_node():
    inside = {b"LD_PRELOAD": b"/image/x.so", b"PATH": b"/bin", b"GLIBC_TUNABLES": b"a=b"}
    assert hidden.for_the_node(inside) == {
        b"SBRIDGE_KEPT_LD_PRELOAD": b"/image/x.so",
        b"PATH": b"/bin",
        b"SBRIDGE_KEPT_GLIBC_TUNABLES": b"a=b",
    }


def test_what_names_this_sandboxs_folders_is_for_no_other_job():
    own = {b"SBRIDGE_OUTPUTS": b"/out", b"SBRIDGE_DOOR": b"/door", hidden.IGNORES_PIPE: b"1"}
    inside = {**own, b"SBRIDGE_MINE": b"x"}
    assert hidden.for_the_node(inside) == {b"SBRIDGE_MINE": b"x"}


def test_what_is_exported_by_its_name_is_so_by_its_other_name():
    inside = {b"SLURM_EXPORT_ENV": b"PATH,LD_LIBRARY_PATH", b"SRUN_EXPORT_ENV": b"\xff,LD_A"}
    assert hidden.for_the_node(inside) == {
        b"SLURM_EXPORT_ENV": b"PATH,SBRIDGE_KEPT_LD_LIBRARY_PATH",
        b"SRUN_EXPORT_ENV": b"\xff,SBRIDGE_KEPT_LD_A",
    }


@pytest.mark.parametrize("value", ["ALL", "NONE", "", "A,B=LD_X", "A='x,LD_A=1'"])
def test_other_exports_stay_as_they_are(value):
    assert hidden.exported(value) == value


def test_srun_itself_decides_between_a_value_and_the_environments():
    assert hidden.exported("ALL,LD_A=/x,LD_B") == "ALL,SBRIDGE_KEPT_LD_A=/x,SBRIDGE_KEPT_LD_B"


def test_the_jobs_name_is_kept_where_there_is_one():
    assert hidden.kept_job_name({b"A": b"b"}) == {}
    assert hidden.kept_job_name({b"SLURM_JOB_NAME": b"x"}) == {b"SBRIDGE_KEPT_SLURM_JOB_NAME": b"x"}
