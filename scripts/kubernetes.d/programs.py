"""Kubernetes' own programs, built from tests/kubernetes/go.mod once and kept for every cluster."""

import collections
import contextlib
import fcntl
import hashlib
import os
import pwd
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from commands import PATH, Failure

MODULE = Path(__file__).resolve().parents[2] / "tests/kubernetes"
# The longest first: who waits sees early what it comes to.
PROGRAMS = ("kube-apiserver", "kubelet", "kube-controller-manager", "kube-scheduler", "kubectl")
PROGRESS_EVERY_S = 10.0
UNUSED_DAYS = 30


def program_folder() -> Path:
    """Return where the programs are or will be: a folder for each state of go.mod and go.sum."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((MODULE / name).read_bytes())
    return _cache() / f"{_version()}-{digest.hexdigest()[:16]}"


def build() -> str:
    """Build the programs that are missing; say in words what was done."""
    folder = program_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one():
        missing = [name for name in PROGRAMS if not (folder / name).exists()]
        go = _go() if missing else ""
        for number, name in enumerate(missing, 1):
            _build_one(go, folder / name, f"building {name} ({number} of {len(missing)})")
        os.utime(folder)  # says when it was last used
        _forget_unused()
    done = f"{len(missing)} built" if missing else "all there"
    return f"Kubernetes {_version()}, {done}, in {folder}"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache") / "sbridge/kubernetes"


def _version() -> str:
    found = re.search(r"^\s*(?:require )?k8s\.io/kubernetes (v\S+)", _go_mod(), re.MULTILINE)
    assert found, "go.mod does not require k8s.io/kubernetes"
    return found[1]


def _go_mod() -> str:
    return (MODULE / "go.mod").read_text()


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    with (_cache() / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("  somebody else builds Kubernetes' programs; waiting for that", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _go() -> str:
    """Return the go command; one that is missing or too old is a failure that says so."""
    needed = re.findall(r"^go (\d+\.\d+)", _go_mod(), re.MULTILINE)[0]
    hint = (
        "It builds Kubernetes' programs from source, once. https://go.dev/dl has it; it is looked\n"
        "for in PATH and in /usr/local/go/bin."
    )
    path = f"{os.environ.get('PATH', '')}:{PATH}:/usr/local/go/bin"
    go = shutil.which("go", path=path)
    if go is None:
        raise Failure(f"Go {needed} or newer is missing. {hint}")
    # An older go fetches a newer one where its settings allow that; where not, it refuses go.mod.
    asked = _started([go, "list", "-m"])
    reason = asked.communicate()[1].strip()
    if asked.returncode != 0:
        raise Failure(f"{go} is not Go {needed} or newer. {hint}\nIt says: {reason}")
    return go


def _build_one(go: str, program: Path, title: str) -> None:
    package = f"k8s.io/kubernetes/cmd/{program.name}"
    packages = _watch([go, "list", "-deps", package], f"{title}: fetching modules")
    new = program.with_name(program.name + ".new")
    argv = [go, "build", "-v", "-trimpath", "-ldflags", _linker_flags(), "-o", str(new), package]
    _watch(argv, f"{title}, at most {len(packages.split())} packages")
    new.replace(program)


def _linker_flags() -> str:
    """Return the flags that tell the programs their version: an empty one breaks clients."""
    major, minor = _version().removeprefix("v").split(".")[:2]
    values = {
        "gitVersion": _version(),
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    settings = [f"-X {package}.{k}={v}" for package in packages for k, v in values.items()]
    return " ".join(["-s", "-w", *settings])


def _started(argv: Sequence[str]) -> subprocess.Popen[str]:
    home = {"HOME": pwd.getpwuid(os.geteuid()).pw_dir}
    return subprocess.Popen(
        list(argv),
        cwd=MODULE,
        env={**home, **os.environ, "CGO_ENABLED": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _watch(argv: Sequence[str], title: str) -> str:
    """Run a command of go, which tells one line for each step, and say how far it is."""
    begin = time.monotonic()
    last = collections.deque[str](maxlen=20)
    count = 0
    process = _started(argv)

    def report() -> None:
        while not ended.wait(PROGRESS_EVERY_S):
            seconds = time.monotonic() - begin
            print(f"  {title}: {count} done, {seconds:.0f} s", flush=True)

    def read_steps() -> None:
        nonlocal count
        assert process.stderr
        for line in process.stderr:
            last.append(line)
            count += 1

    ended = threading.Event()
    threads = [threading.Thread(target=action) for action in (report, read_steps)]
    for thread in threads:
        thread.start()
    try:
        assert process.stdout
        output = process.stdout.read()
        code = process.wait()
    finally:
        process.kill()
        ended.set()
        for thread in threads:
            thread.join()
    if code != 0:
        raise Failure(f"{title}: {argv[0]} {argv[1]} failed:\n{''.join(last)}")
    return output


def _forget_unused() -> None:
    """Remove the programs of go.mods that nobody has used for a while: 400 MB each."""
    oldest = time.time() - UNUSED_DAYS * 86400
    for folder in _cache().iterdir():
        if folder.is_dir() and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder)
