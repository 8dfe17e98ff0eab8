"""native/*.c, compiled for the tests: as scripts/install does, and with sanitizers."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.native.played_agent import ROOT, Agent

_WARNINGS = ["-std=gnu11", "-Wall", "-Wextra", "-Werror"]
_SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
_SANITIZERS += ["-ftrivial-auto-var-init=pattern"]  # what nobody has set is garbage
# Where they write what they find: the witness has no stderr. What an exit frees is no leak.
_OPTIONS = """
const char *__asan_default_options(void) {{ return "detect_leaks=0:log_path={log}"; }}
const char *__ubsan_default_options(void) {{ return "print_stacktrace=1:log_path={log}"; }}
"""
_AS_INSTALLED = """
set -eu
die() { echo "$@" >&2; exit 1; }
eval "$(sed -n '/^compile_run()/,/^}/p' "$tree/scripts/install")"
compile_run "$1"
"""
_STAND_IN = """#!{python} -IS
import sys
sys.path.insert(0, {root!r})
from bridge.stand_in import main
sys.exit(main())
"""


class Built:
    """The folder of this session, and the programs in it."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "run"
        self.findings = folder / "findings"
        self._folder = folder
        self._prefix = folder / "prefix"
        for made in (self.run_dir, self.findings, self._prefix / "libexec"):
            made.mkdir(parents=True)
        stand_in = self._prefix / "libexec/sbridge-stand-in"
        stand_in.write_text(_STAND_IN.format(python=sys.executable, root=str(ROOT)))
        stand_in.chmod(0o755)
        self.runner = f"{self._prefix}/bin/sbridge-run"

    def sanitized(self, name: str, *defines: str) -> Path:
        options = self._folder / "options.c"
        options.write_text(_OPTIONS.format(log=self.findings / "found"))
        paths = {"RUN_DIR": self.run_dir, "RUNNER": self.runner,
                 "STAND_IN": self._prefix / "libexec/sbridge-stand-in"}  # fmt: skip
        words = [f'-D{key}="{path}"' for key, path in paths.items()]
        words += [f"-D{define}" for define in defines]
        sources = [*sorted((ROOT / "native").glob("*.c")), options]
        return self._made(name, ["cc", *_WARNINGS, *_SANITIZERS, *words, *sources, "-o"])

    def as_installed(self) -> Path:
        given = {"tree": ROOT, "run_dir": self.run_dir, "prefix": self._prefix, "cc": "cc"}
        words = [f"{key}={value}" for key, value in given.items()]
        words.append("compiler_packages=")
        return self._made("installed", ["env", *words, "sh", "-c", _AS_INSTALLED, "sh"])

    def _made(self, name: str, command: list[Any]) -> Path:
        program = self._folder / name
        done = subprocess.run([*command, program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return program


@pytest.fixture(scope="session")
def built() -> Iterator[Built]:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    folder = Path(tempfile.mkdtemp(prefix="sbridge-native-"))
    folder.chmod(0o755)
    yield Built(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def installed_program(built: Built) -> Path:
    return built.as_installed()


@pytest.fixture(scope="session")
def sanitized_program(built: Built) -> Path:
    return built.sanitized("sanitized", "RETRY_MS=10", "SEE_OFF_MS=60000")


@pytest.fixture(scope="session")
def impatient_program(built: Built) -> Path:
    return built.sanitized("impatient", "RETRY_MS=10", "AGENT_TIMEOUT_MS=600")


@pytest.fixture
def agent_of(built: Built) -> Iterator[Callable[[Path], Agent]]:
    """Give the agent of a program; the sanitizers must have found nothing in the end."""
    agents = []

    def make(program: Path) -> Agent:
        agents.append(Agent(program, built.run_dir))
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()
    found = sorted(built.findings.iterdir())
    texts = [path.read_text(errors="replace") for path in found]
    for path in found:
        path.unlink()
    assert texts == []


@pytest.fixture(params=["sanitized", "installed"])
def agent(agent_of: Callable[[Path], Agent], request: pytest.FixtureRequest) -> Agent:
    """Give an agent of sbridge-run as it is installed, and as it is checked while it runs."""
    return agent_of(request.getfixturevalue(f"{request.param}_program"))


@pytest.fixture
def checked(agent_of: Callable[[Path], Agent], sanitized_program: Path) -> Agent:
    """Give an agent of the checked program, which tries again every 10 ms."""
    return agent_of(sanitized_program)


@pytest.fixture
def fast(agent_of: Callable[[Path], Agent], installed_program: Path) -> Agent:
    """Give an agent of the installed program, for what is tried hundreds of times."""
    return agent_of(installed_program)


@pytest.fixture
def impatient(agent_of: Callable[[Path], Agent], impatient_program: Path) -> Agent:
    """Give an agent of a program that waits for one for 0.6 s."""
    return agent_of(impatient_program)


@pytest.fixture
def slurm_script(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write a batch script where slurmd would."""

    def write(content: bytes = b"#!/bin/sh\necho\n") -> Path:
        path = tmp_path / "job00007/slurm_script"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    return write
