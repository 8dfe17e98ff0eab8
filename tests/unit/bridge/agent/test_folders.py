"""How a sandbox gets the node's folders, in a real mount namespace, and whose fault it is."""

import errno
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from bridge import kernel, wire
from bridge.agent import folders, shim
from bridge.errors import TemporaryError
from bridge.job_spool import RunId
from bridge.runtimes.sandbox import Mount, Sandbox, SandboxSpec, UserError


@pytest.fixture
def container(tmp_path):
    """Give a process in a mount namespace of its own, whose root is an image's."""
    image = tmp_path / "image"
    (image / "dev").mkdir(parents=True)
    enter = (
        f"mount --make-rprivate / && mount --rbind {image} {image} && cd {image}"
        " && pivot_root . . && umount -l . && echo ready && read -r end"
    )
    busybox = Path("/bin/busybox")
    argv = ["unshare", "--mount", busybox, "sh", "-c", enter]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b"ready\n"
        yield image, process.pid
        process.stdin.close()


def served(pid, *mounts, commands=""):
    """Have a child serve what the agent sends for these mounts."""

    class Forge:
        def send(self, message, descriptors):
            children.append(os.fork())
            if not children[-1]:
                try:
                    folders.serve(message, [os.dup(each) for each in descriptors])
                finally:
                    os._exit(0)

    children = []
    own = kernel.open_process(pid)
    sandbox = Sandbox("a", pid, kernel.start_ticks(own))
    os.close(own)
    try:
        folders.put_in_place(Forge(), sandbox, specification(mounts, commands))
    finally:
        os.waitpid(children[0], 0)


def specification(mounts, commands=""):
    return SandboxSpec(
        *("a", RunId(1, 0), "n1", "r.io/x", 1000, 1000, (), "u", "a", "p", 0, 0, (), True),
        folders=mounts,
        commands=commands,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_folders_are_mounted_in_the_running_sandbox_the_inner_ones_on_the_outer(
    container, tmp_path
):
    _, pid = container
    for name in ("nas/scratch", "mine", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "other/file").write_text("other")
    served(
        pid,
        Mount(str(tmp_path / "other"), "/nas/scratch"),
        Mount(str(tmp_path / "nas"), "/nas/", read_only=True),
        Mount(str(tmp_path / "mine"), "/mine"),
    )
    inside = Path(f"/proc/{pid}/root")
    assert (inside / "nas/scratch/file").read_text() == "other"
    (inside / "mine/new").touch()
    (inside / "nas/scratch/new").touch()
    assert (tmp_path / "mine/new").exists()
    with pytest.raises(OSError, match="Read-only"):
        (inside / "nas/new").touch()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_an_images_links_among_the_places_have_nothing_made_in_a_folder(container, tmp_path):
    image, pid = container
    home = tmp_path / "home"
    (home / "bob").mkdir(parents=True)
    (image / "mnt").symlink_to("/home/bob")
    (image / "home/bob").mkdir(parents=True)
    served(pid, Mount(str(home), "/home"), Mount(str(tmp_path), "/mnt/nas"))
    assert list((home / "bob").iterdir()) == []
    assert (image / "home/bob/nas").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.parametrize("place", ["/usr/bin", "/opt/slurm/bin"])
def test_slurms_commands_are_where_the_node_has_them_whatever_the_image_has_there(container, place):
    image, pid = container
    (image / "usr/bin").mkdir(parents=True)
    (image / "usr/bin/squeue").write_text("of the image")
    served(pid, commands=place)
    for name in ("srun", "squeue"):
        assert (image / place[1:] / name).readlink() == Path("/sbridge/bin", name)
    assert {path.name for path in (image / place[1:]).iterdir()} == set(shim.COMMANDS)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_folder_of_an_image_with_a_commands_name_costs_that_command_only(container):
    image, pid = container
    (image / "usr/bin/sacct/x").mkdir(parents=True)
    served(pid, commands="/usr/bin")
    assert (image / "usr/bin/sacct/x").is_dir()
    assert {path.name for path in (image / "usr/bin").iterdir()} == set(shim.COMMANDS)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_no_command_is_put_into_a_folder_of_the_node(container, tmp_path):
    image, pid = container
    (tmp_path / "nas/bin").mkdir(parents=True)
    (image / "usr").mkdir()
    (image / "usr/bin").symlink_to("/sbridge/bin")
    (image / "sbridge/bin").mkdir(parents=True)
    folder = Mount(str(tmp_path / "nas"), "/nas")
    for place in ("/nas", "/nas/bin", "/usr/bin"):
        served(pid, folder, commands=place)
        assert not list((tmp_path / "nas/bin").iterdir())
        assert not list((image / "sbridge/bin").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.parametrize("place", ["/dev", "/dev/shm", "/"])
def test_no_link_of_an_image_brings_a_folder_to_where_root_works(container, tmp_path, place):
    image, pid = container
    (image / "dev/shm").mkdir()
    (image / "home").symlink_to(place)
    with pytest.raises(UserError, match=f"/home must be a folder there: a link leads to {place}$"):
        served(pid, Mount(str(tmp_path), "/home"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_shared_memory_executes_what_the_nodes_does(container):
    image, pid = container
    (image / "dev/shm").mkdir()
    enter = ["nsenter", f"--target={pid}", "--mount"]
    options = "nosuid,nodev,noexec,size=64k"
    mount = [*enter, "/busybox", "mount", "-t", "tmpfs", "-o", options, "shm", "/dev/shm"]
    shutil.copy("/bin/busybox", image / "busybox")
    subprocess.run(mount, check=True)
    served(pid)
    lines = Path(f"/proc/{pid}/mounts").read_text().splitlines()
    found = next(line.split()[3].split(",") for line in lines if line.startswith("shm /dev/shm "))
    may_not = bool(os.statvfs("/dev/shm").f_flag & os.ST_NOEXEC)
    assert ("noexec" in found, {"nosuid", "nodev"} <= set(found)) == (may_not, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_site_may_mount_a_folder_of_devices(container, tmp_path):
    _, pid = container
    (tmp_path / "infiniband").mkdir()
    served(pid, Mount(str(tmp_path / "infiniband"), "/dev/infiniband"))
    (tmp_path / "infiniband/uverbs0").touch()
    inside = Path(f"/proc/{pid}/root")
    assert (inside / "dev/infiniband/uverbs0").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_folder_that_the_node_has_lost_is_not_its_images_fault(container, tmp_path):
    with pytest.raises(
        TemporaryError, match=r"waiting for a folder to be mounted: .*lost: No such file"
    ):
        served(container[1], Mount(str(tmp_path / "lost"), "/lost"))


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
        folders.put_in_place(Forge(), sandbox, specification(mounts))

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
