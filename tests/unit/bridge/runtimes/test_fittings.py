"""What is written into a new sandbox from outside: here a process in a root folder of its own."""

import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from bridge import kernel
from bridge.errors import TemporaryError
from bridge.runtimes import fittings
from bridge.runtimes.sandbox import Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has sandboxes")
ZONE = "/usr/share/zoneinfo/Asia/Seoul"
MIB = 1024 * 1024
fit = partial(fittings.fit, has_nodes_name=False)


@pytest.fixture
def root(tmp_path):
    """Give the root folder of an image that has a time zone of its own."""
    root = tmp_path / "root"
    for folder in ("etc", "dev/shm", "elsewhere"):
        (root / folder).mkdir(parents=True)
    zone = root / ZONE.lstrip("/")
    zone.parent.mkdir(parents=True)
    zone.write_text("Seoul")
    (root / "etc/localtime").symlink_to(ZONE)
    (root / "etc/timezone").write_text("Asia/Seoul\n")
    return root


@pytest.fixture
def sandbox(root):
    """Start the sandbox; `mounts` are made in its mount namespace, as mount(8)'s arguments."""
    started = []

    def begin(mounts):
        kernel.unshare_mounts()
        for mount in mounts:
            subprocess.run(["mount", *mount], check=True)
        os.chroot(root)
        os.write(writer, b"!")
        signal.pause()

    def sandbox(*mounts):
        nonlocal writer
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                begin(mounts)
            finally:
                os._exit(1)
        started.append(pid)
        os.close(writer)
        with open(reader, "rb") as ready:
            assert ready.read(1) == b"!"
        process = kernel.open_process(pid)
        try:
            return Sandbox("sbridge-7.0", pid, kernel.start_ticks(process))
        finally:
            os.close(process)

    writer = -1
    yield sandbox
    for pid in started:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def memory(place, size_mib):
    return ["-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(place)]


def size_of(sandbox, place):
    status = os.statvfs(Path("/proc", str(sandbox.init_pid), "root", place))
    return status.f_blocks * status.f_frsize


def test_a_sandbox_has_the_nodes_time_zone_and_the_images_own_stays_readable(root, sandbox):
    assert fit(sandbox(memory(root / "dev/shm", 1))) == []
    for name in ("localtime", "timezone"):
        ours, nodes = root / "etc" / name, Path("/etc", name)
        assert not ours.is_symlink()
        if nodes.exists():
            assert ours.read_bytes() == nodes.read_bytes()
            assert ours.stat().st_mode & 0o777 == 0o644
        else:
            assert not ours.exists()
    assert (root / ZONE.lstrip("/")).read_text() == "Seoul"


def test_a_node_without_a_time_zone_has_sandboxes_without_one(root, sandbox, monkeypatch, tmp_path):
    monkeypatch.setattr(fittings, "Path", lambda *parts: Path(tmp_path, *parts[1:]))
    assert fit(sandbox(memory(root / "dev/shm", 1))) == []
    assert list((root / "etc").iterdir()) == []


@pytest.mark.parametrize("has_nodes_name", [False, True])
def test_a_sandbox_with_the_nodes_name_has_the_nodes_files_of_names(root, sandbox, has_nodes_name):
    for name in ("hostname", "hosts"):
        (root / "etc" / name).write_text("the pod's")
    made = sandbox(memory(root / "dev/shm", 1))
    assert fittings.fit(made, has_nodes_name=has_nodes_name) == []
    for name in ("hostname", "hosts"):
        nodes = Path("/etc", name)
        if not has_nodes_name:
            assert (root / "etc" / name).read_text() == "the pod's"
        elif nodes.exists():
            assert (root / "etc" / name).read_text() == nodes.read_text()
        else:
            assert not (root / "etc" / name).exists()


def test_shared_memory_has_the_nodes_size(root, sandbox):
    made = sandbox(memory(root / "dev/shm", 1))
    assert size_of(made, "dev/shm") == MIB
    assert fit(made) == []
    node = os.statvfs("/dev/shm")
    assert size_of(made, "dev/shm") == node.f_blocks * node.f_frsize


def test_a_folder_of_the_site_at_etc_is_not_written_to(root, sandbox, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "localtime").write_text("the site's")
    bind = ["--bind", str(site), str(root / "etc")]
    assert fit(sandbox(bind, memory(root / "dev/shm", 1))) == []
    assert (site / "localtime").read_text() == "the site's"
    assert (root / "etc/timezone").read_text() == "Asia/Seoul\n", "what is below it stays as well"


def test_an_images_links_lead_nowhere(root, sandbox):
    """Neither among its own files nor, as absolute ones would from out here, to the node's."""
    for name, link in (("etc", str(root / "elsewhere/etc")), ("dev/shm", "../elsewhere/shm")):
        place = root / name
        place.rename(root / "elsewhere" / place.name)
        place.symlink_to(link)
    made = sandbox(memory(root / "elsewhere/shm", 1))
    _, of_memory = fit(made)
    assert of_memory.startswith("/dev/shm: ")
    assert (root / "elsewhere/etc/timezone").read_text() == "Asia/Seoul\n"
    assert size_of(made, "elsewhere/shm") == MIB


def test_an_image_whose_time_zone_is_a_folder_keeps_it_and_gets_the_rest(root, sandbox):
    (root / "etc/localtime").unlink()
    (root / "etc/localtime").mkdir()
    made = sandbox(memory(root / "dev/shm", 1))
    assert len(fit(made)) == 1
    assert (root / "etc/localtime").is_dir()
    assert size_of(made, "dev/shm") > MIB


def test_a_sandbox_that_has_ended_is_told_from_one_that_took_its_pid(sandbox):
    made = sandbox()
    other = Sandbox(made.name, made.init_pid, made.init_start - 1)
    with pytest.raises(TemporaryError, match=r"sbridge-7\.0 ended at once"):
        fit(other)
    with pytest.raises(TemporaryError, match=r"sbridge-7\.0 ended at once"):
        fit(Sandbox(made.name, 999_999_999, 1))


def test_nothing_stays_open(root, sandbox):
    made = sandbox(memory(root / "dev/shm", 1))
    before = os.listdir("/proc/self/fd")
    fit(made)
    (root / "etc").rename(root / "gone")
    assert fit(made)
    assert os.listdir("/proc/self/fd") == before
