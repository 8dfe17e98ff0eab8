import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bridge import config_file
from bridge.config import Config

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
SERVICES = ("sbridge-agent.service", "sbridge-agent@.service", "sbridge-watcher.service")
# The most that `systemd-analyze security` may find exposed, in tenths of its 0 to 10.
EXPOSURE = {
    "sbridge-agent.service": 90,
    "sbridge-agent@.service": 90,
    "sbridge-watcher.service": 30,
}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def text(name: str) -> str:
    return (UNITS / name).read_text(encoding="utf-8")


def settings(name: str) -> dict[str, str]:
    """Return the settings of the [Service] part."""
    parser = configparser.ConfigParser(interpolation=None, delimiters="=", comment_prefixes="#")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text(name))
    return dict(parser["Service"])


@pytest.fixture
def copy(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a unit that starts a program which exists here."""
    name: str = request.param
    path = tmp_path / name.replace("@.", "@n1.")
    path.write_text(re.sub(r"/opt/sbridge/bin/\S+", "/bin/true", text(name)), encoding="utf-8")
    return path


@needs_systemd
@pytest.mark.parametrize("copy", SERVICES, indirect=True)
def test_systemd_finds_nothing_wrong_with_a_unit(copy: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("copy", SERVICES, indirect=True)
def test_a_unit_is_hardened_as_far_as_it_can_be(copy: Path) -> None:
    threshold = EXPOSURE[copy.name.replace("@n1.", "@.")]
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", "--no-pager",
         str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot judge unit files")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_daemon_says_when_it_is_ready_is_watched_and_comes_back_at_once(name: str) -> None:
    service = settings(name)
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 0
    assert (service["Restart"], service["RestartSec"]) == ("always", "1")
    assert "StartLimitIntervalSec=0\n" in text(name)


@pytest.mark.parametrize("name", SERVICES[:2])
def test_keepers_and_sandboxes_outlive_the_agent(name: str) -> None:
    service = settings(name)
    assert service["KillMode"] == "process"
    assert service["OOMPolicy"] == "continue"
    assert service["RuntimeDirectoryPreserve"] == "yes"


@pytest.mark.parametrize("name", SERVICES[:2])
def test_nothing_that_jobs_would_inherit_is_restricted(name: str) -> None:
    inherited = (
        "SystemCall", "Restrict", "MemoryDeny", "LockPersonality", "NoNewPrivileges", "Protect",
        "Private", "OOMScoreAdjust", "Nice", "CPU", "Memory", "LimitCORE", "LimitNPROC",
    )  # fmt: skip
    assert [key for key in settings(name) if key.startswith(inherited)] == []


def test_no_limits_of_the_watcher_reach_the_jobs_that_it_submits() -> None:
    service = settings("sbridge-watcher.service")
    assert [key for key in service if key.startswith(("Limit", "Nice", "OOM"))] == []
    assert service["UMask"] == "0022"


def test_one_text_is_the_agents_unit_by_both_of_its_names() -> None:
    assert (UNITS / SERVICES[1]).readlink() == Path(SERVICES[0])
    assert settings(SERVICES[0])["ExecStart"].endswith(" --node=%i")


def test_folders_and_paths_are_those_of_the_default_configuration() -> None:
    default = Config()
    agent, watcher = settings(SERVICES[0]), settings(SERVICES[2])
    assert Path("/run", agent["RuntimeDirectory"]) == default.agent.run_dir
    assert f"RequiresMountsFor={default.agent.spool_dir}\n" in text(SERVICES[0])
    for service in (agent, watcher):
        assert Path("/var/log", service["LogsDirectory"]) == default.logging.dir
        assert f"--config {config_file.DEFAULT_PATH}" in service["ExecStart"]
    assert default.watcher.state_dir.is_relative_to(Path("/var/lib", watcher["StateDirectory"]))
    assert f"{default.logging.dir}/*.log {{" in text("sbridge.logrotate")


@pytest.mark.parametrize("name", SERVICES)
def test_every_setting_stands_below_its_reason(name: str) -> None:
    """A blank line or a heading begins a group; each group has a comment."""
    groups = [part for part in re.split(r"\n\n|\[\w+\]\n", text(name)) if "=" in part]
    for group in groups:
        if "WantedBy" not in group:
            assert "#" in group, group
