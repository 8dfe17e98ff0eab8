"""The folder of a step's PMIx server: which one is taken for it, and whose."""

import os

import pytest

from bridge import kernel, wire
from bridge.agent import pmix
from bridge.agent.pmix import PmixFolder

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take hold of a mount")


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ([b"PMIX_SERVER_TMPDIR=/var/spool/slurmd/pmix.7.0/"], "pmix.7.0"),
        ([b"PMIX_SERVER_TMPDIR=/anywhere/else/pmix.7.12"], "pmix.7.12"),
        ([b"PMIX_SERVER_TMPDIR=/var/spool/slurmd/job00007"], ""),
        ([b"PMIX_SERVER_TMPDIR=/var/spool/slurmd/pmix.7.0/.."], ""),
        ([b"PMIX_SERVER_TMPDIR="], ""),
        ([b"PMIX_SERVER_TMPDIR=/pmix.7.0\n"], ""),
        ([b"PMIX_RANK=0"], ""),
    ],
)
def test_only_a_name_that_slurm_gives_is_taken_from_the_environment(environment, name):
    assert pmix.folder_name(environment) == name


def order(tmp_path, uid):
    (tmp_path / "shown").mkdir(exist_ok=True)
    fields = pmix.orders("pmix.7.0", tmp_path / "slurmd", tmp_path / "shown")
    return wire.Message("enter", [*fields, ("uid", b"%d" % uid)])


def test_a_step_without_pmix_has_no_folder():
    assert PmixFolder.of(wire.Message("enter", [("uid", b"1")])) is None


def test_a_folder_of_a_step_that_is_over_is_none(tmp_path):
    assert PmixFolder.of(order(tmp_path, os.getuid())) is None


def test_a_strangers_folder_is_not_taken(tmp_path):
    (tmp_path / "slurmd/pmix.7.0").mkdir(parents=True)
    assert PmixFolder.of(order(tmp_path, os.getuid() + 1)) is None
    assert not (tmp_path / "shown/pmix.7.0").exists()


def test_a_link_in_the_folders_place_is_not_followed(tmp_path):
    (tmp_path / "slurmd").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "slurmd/pmix.7.0").symlink_to(tmp_path / "mine")
    assert PmixFolder.of(order(tmp_path, os.getuid())) is None


@needs_root
def test_the_owners_folder_is_shown_in_a_mount_namespace_of_its_own(tmp_path):
    folder = tmp_path / "slurmd/pmix.7.0"
    folder.mkdir(parents=True)
    (folder / "segment").touch()
    held = PmixFolder.of(order(tmp_path, os.getuid()))
    assert held is not None
    place = tmp_path / "shown/pmix.7.0"
    assert place.is_dir()
    pid = os.fork()
    if pid == 0:  # the sandbox has `shown` where the node has slurmd's folder
        status = 1
        try:
            kernel.unshare_mounts()
            kernel.move_mount(kernel.open_tree(str(tmp_path / "shown")), bytes(tmp_path / "slurmd"))
            held.place(100)
            before = list(folder.iterdir())
            held.show()
            status = 0 if not before and list(folder.iterdir()) == [folder / "segment"] else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert list(place.iterdir()) == []
