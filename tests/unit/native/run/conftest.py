"""sbridge-run, compiled for the tests, and the agents that tests play for it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.native.compiled import ROOT, Built
from tests.unit.native.run.played_agent import Agent

_STAND_IN = """#!{python} -IS
import sys
sys.path.insert(0, {root!r})
from bridge.stand_in import main
sys.exit(main())
"""


class Paths:
    """What sbridge-run is compiled with: the agents' folder, and the prefix with a stand-in."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "run"
        self.prefix = folder / "prefix"
        for made in (self.run_dir, self.prefix / "libexec"):
            made.mkdir(parents=True)
        self.runner = f"{self.prefix}/bin/sbridge-run"
        self.stand_in = self.prefix / "libexec/sbridge-stand-in"
        self.stand_in.write_text(_STAND_IN.format(python=sys.executable, root=str(ROOT)))
        self.stand_in.chmod(0o755)

    def sanitized(self, built: Built, name: str, **numbers: int) -> Path:
        return built.sanitized(
            name,
            "run",
            RUN_DIR=self.run_dir,
            RUNNER=self.runner,
            STAND_IN=self.stand_in,
            **numbers,
        )


@pytest.fixture(scope="session")
def paths(built: Built) -> Paths:
    return Paths(built.folder)


@pytest.fixture(scope="session")
def installed_program(built: Built, paths: Paths) -> Path:
    return built.as_installed("run", run_dir=paths.run_dir, prefix=paths.prefix)


@pytest.fixture(scope="session")
def sanitized_program(built: Built, paths: Paths) -> Path:
    return paths.sanitized(built, "sanitized", RETRY_MS=10, SEE_OFF_MS=60000)


@pytest.fixture(scope="session")
def impatient_program(built: Built, paths: Paths) -> Path:
    return paths.sanitized(built, "impatient", RETRY_MS=10, AGENT_TIMEOUT_MS=600)


@pytest.fixture
def agent_of(built: Built, paths: Paths) -> Iterator[Callable[[Path], Agent]]:
    """Give the agent of a program; the sanitizers must have found nothing in the end."""
    agents = []

    def make(program: Path) -> Agent:
        agents.append(Agent(program, paths.run_dir))
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()
    assert built.findings() == []


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
