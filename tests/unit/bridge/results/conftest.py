"""A job's local folder and a NAS folder, both real, and a process that is the job's user."""

import hashlib
import os
import pickle
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bridge import kernel
from bridge.results.remark import Remarks
from bridge.results.summary import Published
from bridge.results.transfer import Copied

UID = 64321  # nobody's
STRANGER = 64322

FACTS: dict[str, Any] = {
    "job_id": 42,
    "restart": 1,
    "name": "hello",
    "user": "alice",
    "account": "lab",
    "partition": "main",
    "qos": "normal",
    "nodes": "n[1-2]",
    "state": "FAILED",
    "exit_code": 3,
    "signal": None,
    "reason": "NonZeroExitCode",
    "submitted": 1_700_000_000,
    "started": 1_700_000_010.9,
    "ended": 1_700_003_700,
    "elapsed_s": 3690,
    "image": "nas-hub.local:5407/alpine:latest",
    "runtime": "podman",
    "sandbox": "sbridge-42-1",
    "sandbox_start_s": 12.3,
    "sandbox_start": ["pulling image a took 11.5 s (7 MB)"],
    "workdir": "/workspace",
    "script": "/mnt/nas/x.py",
    "warnings": ["--output was overridden"],
    "max_rss_kib": 2048,
    "cpu_s": 61.5,
    "job_file": "안녕.sh",
    "tag": "t-42",
}


def run_as(uid: int, act: Callable[[], Any]) -> Any:
    """Return what `act` returns in a forked child that is `uid`; "died N" when it exits with N."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                kernel.renounce_privileges(uid, uid, [])  # as the agent's child does
            result = pickle.dumps(act())
        except BaseException as error:  # noqa: BLE001 (the parent tells)
            result = pickle.dumps(AssertionError(f"{type(error).__name__}: {error}"))
        with open(writer, "wb") as pipe:
            pipe.write(result)
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        return f"died {code}"
    result = pickle.loads(data)
    if isinstance(result, AssertionError):
        raise result
    return result


@dataclass
class Site:
    """One finished job on a node, and the NAS."""

    root: Path
    facts: dict[str, Any] = field(default_factory=lambda: {"job_id": 42, "tag": "t-42"})

    @property
    def out(self) -> Path:
        return self.root / "node" / "out"

    @property
    def outputs(self) -> Path:
        return self.out / "outputs"

    @property
    def results(self) -> Path:
        return self.root / "nas" / "results"

    @property
    def folder(self) -> Path:
        return self.results / "42"

    def plan(self, **changes: Any) -> dict[str, Any]:
        plan = {"out": str(self.out), "results": str(self.results), "facts": self.facts}
        return plan | {"languages": ["en", "ko"]} | changes

    def write(self, name: str | bytes, content: bytes = b"x") -> Path:
        """Write a file of the job's, as the job's user."""
        path = self.out / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.own(self.out)
        return path

    def own(self, root: Path, uid: int = UID) -> None:
        """Give everything below `root` to the job's user."""
        if os.geteuid() != 0:
            return
        os.chown(root, uid, uid)
        for folder, folders, files in os.walk(root):
            for name in folders + files:
                os.lchown(os.path.join(folder, name), uid, uid)

    def publish(self, **changes: Any) -> dict[str, Any]:
        from bridge.results import publish

        answer: dict[str, Any] = run_as(UID, lambda: publish.main(self.plan(**changes)))
        return answer

    def mirror(self, **changes: Any) -> dict[str, Any]:
        from bridge.results import mirror

        answer: dict[str, Any] = run_as(UID, lambda: mirror.main(self.plan(**changes)))
        return answer

    def sha256sum(self, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the real program over checksums.txt."""
        return subprocess.run(
            ["sha256sum", "--check", "--strict", "checksums.txt"],
            cwd=folder or self.folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )

    def assert_complete(self, folder: Path | None = None) -> None:
        """The result folder is whole, verifies, and nothing temporary is left in it."""
        folder = folder or self.folder
        assert (folder / "job_summary.json").is_file()
        assert (folder / "job_summary.txt").is_file()
        check = self.sha256sum(folder)
        assert check.returncode == 0, check.stdout + check.stderr
        assert [name for name in os.listdir(folder) if name.startswith(".")] == []


def fingerprint(root: Path) -> dict[bytes, str]:
    """Return the checksum of every regular file below `root`, by its relative path."""
    found = {}
    for folder, _, files in os.walk(os.fsencode(root)):
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                found[os.path.relpath(path, os.fsencode(root))] = digest
    return found


def published(**changes: Any) -> Published:
    values = {
        "stdout": Copied(5, "ab" * 32),
        "stderr": Copied(0, "cd" * 32),
        "files": 2,
        "size": 1536,
        "skipped": Remarks(),
        "notes": Remarks(),
        "checksums_sha256": "ef" * 32,
    }
    return Published(**(values | changes))


@pytest.fixture
def site() -> Iterator[Site]:
    root = Path(tempfile.mkdtemp(prefix="sbridge-results-"))  # pytest's own folders are 0700
    root.chmod(0o711)
    made = Site(root)
    made.outputs.mkdir(parents=True)
    made.out.chmod(0o700)
    made.results.mkdir(parents=True)
    made.results.chmod(0o1777)
    made.own(made.out)
    yield made
    subprocess.run(["chmod", "-R", "u+rwX", str(root)], check=True)
    shutil.rmtree(root)


@pytest.fixture
def only_as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to be several users")
