import subprocess
import sys
from pathlib import Path

import pytest

from bridge import config_file

ROOT = Path(__file__).parents[3]


def sbridge(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run the real command; returns exit code, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "bridge.cli", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    path = tmp_path / "site.toml"
    path.write_text('[nas]\nresults = "/결과"\n', encoding="utf-8")
    return path


def test_the_version_is_told() -> None:
    assert sbridge("--version") == (0, "sbridge 0.1.0\n", "")


def test_show_prints_the_settings_in_force(site_file: Path) -> None:
    code, shown, _ = sbridge("config", "show", "--config", str(site_file))
    assert code == 0
    assert config_file.parse(shown, "shown") == config_file.load(site_file)


def test_the_environment_names_the_file(site_file: Path) -> None:
    code, shown, _ = sbridge("config", "show", environment={"SBRIDGE_CONFIG": str(site_file)})
    assert (code, 'results = "/결과"' in shown) == (0, True)


def test_check_says_that_a_file_is_right(site_file: Path) -> None:
    told = sbridge("config", "check", "--config", str(site_file))
    assert told == (0, f"{site_file}: all right\n", "")


def test_check_ends_with_78_and_tells_what_is_wrong_and_what_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[nas]\nresult = '/x'\n", encoding="utf-8")
    code, out, err = sbridge("config", "check", "--config", str(path))
    assert (code, out) == (78, "")
    assert err == f"sbridge: {path}: unknown key nas.result\nDid you mean nas.results?\n"


def test_a_missing_file_ends_with_78(tmp_path: Path) -> None:
    code, _, err = sbridge("config", "show", "--config", str(tmp_path / "none"))
    assert code == 78
    assert "none: cannot be read" in err


def test_example_prints_the_committed_example() -> None:
    code, out, _ = sbridge("config", "example")
    assert (code, out) == (0, (ROOT / "examples/sbridge.toml").read_text(encoding="utf-8"))


def test_a_wrong_option_ends_with_2_and_the_usage() -> None:
    code, _, err = sbridge("config", "shwo")
    assert code == 2
    assert "No such command 'shwo'" in err


def test_the_command_starts_without_what_only_daemons_need() -> None:
    program = "import sys, bridge.cli; print({'structlog', 'kubernetes', 'yaml'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
