"""Where a sandbox's folders are mounted first, and whose fault it is; moved in integration."""

import errno
import os
import socket

import pytest

from bridge import kernel, wire
from bridge.agent import folders
from bridge.errors import TemporaryError
from bridge.job_spool import NodeSpool, RunId
from bridge.runtimes.sandbox import Mount, Sandbox, SandboxSpec, UserError


def test_a_runs_folders_are_aside_where_root_alone_can_know(tmp_path):
    spool, other = NodeSpool(tmp_path), NodeSpool(tmp_path / "other")
    other.root.mkdir()
    for each in (spool, other):
        folders.make_key(each)
    place = folders.aside(spool, RunId(7, 0))
    folders.make_key(spool)  # as the next agent does
    assert folders.aside(spool, RunId(7, 0)) == place
    others = {folders.aside(spool, RunId(7, 1)), folders.aside(other, RunId(7, 0))}
    assert len({place, *others}) == 3
    assert spool.key.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_is_in_another_one_is_moved_with_it():
    paths = ("/mnt/nas/scratch", "/home/", "/mnt/nas", "/mnt/nas2", "/var/spool/out")
    mounts = tuple(Mount(path, path) for path in paths)
    assert folders.outermost(mounts) == ["/home", "/mnt/nas", "/mnt/nas2", "/var/spool/out"]


def test_a_place_that_the_image_lacks_is_made(tmp_path):
    target = os.fsencode(tmp_path / "mnt/nas")
    umask = os.umask(0o022)
    try:
        os.close(folders._place(target))
    finally:
        os.umask(umask)
    assert (tmp_path / "mnt/nas").stat().st_mode & 0o777 == 0o755


@pytest.fixture
def put():
    """Put folders in place, in this process's sandbox, with a forge whose child says this."""

    def put(answer, target="/home", start=None):
        class Forge:
            def send(self, message, descriptors):
                assert message.every("target") == [os.fsencode(target)]
                with socket.socket(fileno=os.dup(descriptors[0])) as connection:
                    if answer is not None:
                        wire.send(connection, answer)

        own = kernel.open_process(os.getpid())
        sandbox = Sandbox("a", os.getpid(), start or kernel.start_ticks(own))
        os.close(own)
        mounts = (Mount(target, target),)
        spec = SandboxSpec(
            *("a", RunId(1, 0), "n1", "r.io/x", 1000, 1000, (), "u", "a", "p", 0, 0, (), True),
            folders=mounts,
            aside="/sbridge-1",
        )
        folders.put_in_place(Forge(), sandbox, spec)

    return put


def failed(number):
    text = os.fsencode(f"/home must be a folder there: {os.strerror(number)}")
    return wire.Message("failed", [("errno", b"%d" % number), ("text", text)])


def test_what_an_images_files_are_in_the_way_of_is_its_users_fault(put):
    put(wire.Message("placed"))
    with pytest.raises(UserError, match=r"r\.io/x cannot be made: /home .* Not a directory"):
        put(failed(errno.ENOTDIR))


@pytest.mark.parametrize("answer", [failed(errno.ENOMEM), None], ids=["failed", "dead"])
def test_what_may_pass_is_tried_again(put, answer):
    with pytest.raises(TemporaryError, match="folders"):
        put(answer)


def test_a_sandbox_that_has_ended_gets_no_folders(put):
    with pytest.raises(TemporaryError, match="ended at once"):
        put(wire.Message("placed"), start=1)
