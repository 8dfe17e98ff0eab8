import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bridge import config_file
from bridge.config import Config
from bridge.errors import ConfigError

ROOT = Path(__file__).parents[3]


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config_file.parse(text, "site.toml")
    return caught.value


def settings() -> list[tuple[str, str, Any, dataclasses.Field[Any]]]:
    """Return (table, key, default, field) of every setting."""
    default = Config()
    return [
        (table.name, entry.name, getattr(getattr(default, table.name), entry.name), entry)
        for table in dataclasses.fields(Config)
        for entry in dataclasses.fields(getattr(default, table.name))
    ]


SETTINGS = settings()
IDS = [f"{table}.{key}" for table, key, *_ in SETTINGS]


def test_an_empty_file_means_the_defaults() -> None:
    assert config_file.parse("", "site.toml") == Config()


def test_values_of_every_type_are_read() -> None:
    read = config_file.parse(
        """
        [nas]
        results = "/nas/결과"
        [messages]
        languages = ["ko"]
        [watcher]
        scan_interval_s = 2
        parallel_submissions = 3
        [sandbox]
        host_network = false
        mounts = []
        [podman]
        global_options = ["--root=/a b", "--x=\\"y\\""]
        """,
        "site.toml",
    )
    assert read.nas.results == Path("/nas/결과")
    assert read.messages.languages == ("ko",)
    assert (read.watcher.scan_interval_s, type(read.watcher.scan_interval_s)) == (2.0, float)
    assert read.watcher.parallel_submissions == 3
    assert read.sandbox.host_network is False
    assert read.sandbox.mounts == ()
    assert read.podman.global_options == ("--root=/a b", '--x="y"')
    assert read.agent == Config().agent


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    error = refusal("[watcher]\nscan_intervall_s = 1\n")
    assert error.message == "site.toml: unknown key watcher.scan_intervall_s"
    assert error.hint == "Did you mean watcher.scan_interval_s?"


def test_an_unknown_table_is_refused_with_the_nearest_known_one() -> None:
    error = refusal("[watchr]\nscan_interval_s = 1\n")
    assert error.message == "site.toml: unknown key watchr"
    assert error.hint == "Did you mean watcher?"


def test_a_key_that_resembles_nothing_is_refused_with_the_list_of_keys() -> None:
    error = refusal("[logging]\nzzzzzzzz = 1\n")
    assert error.hint == "Known are: logging.dir, logging.level."


def test_a_setting_outside_of_a_table_is_refused() -> None:
    assert "unknown key scan_interval_s" in refusal("scan_interval_s = 1\n").message


def test_a_table_given_as_a_value_is_refused() -> None:
    assert refusal("nas = 1\n").message == "site.toml: nas must be a table: [nas]"


@pytest.mark.parametrize(("table", "key", "default", "entry"), SETTINGS, ids=IDS)
@pytest.mark.parametrize("value", ['"text"', "1", "1.5", "true", "[1]", "{}", "1979-05-27"])
def test_a_value_of_another_type_is_refused_and_named(
    table: str, key: str, default: Any, entry: Any, value: str
) -> None:
    fitting = {
        bool: {"true"},
        int: {"1"},
        float: {"1", "1.5"},
        str: {'"text"'},
        tuple: set(),
    }.get(type(default), set())
    if value in fitting:
        return
    error = refusal(f"[{table}]\n{key} = {value}\n")
    assert error.message.startswith(f"site.toml: {table}.{key} must be ")


@pytest.mark.parametrize(("table", "key", "default", "entry"), SETTINGS, ids=IDS)
def test_limits_hold_and_are_told(table: str, key: str, default: Any, entry: Any) -> None:
    limits = entry.metadata
    if "choices" in limits:
        wrong = '["fnord"]' if isinstance(default, tuple) else '"fnord"'
        assert limits["choices"][0] in refusal(f"[{table}]\n{key} = {wrong}\n").message
    for bound, beyond in (("low", -1), ("high", 1)):
        if bound in limits:
            text = f"[{table}]\n{key} = {limits[bound] + beyond}\n"
            assert str(limits[bound]) in refusal(text).message
            config_file.parse(f"[{table}]\n{key} = {limits[bound]}\n", "site.toml")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_that_are_none_are_refused(value: str) -> None:
    error = refusal(f"[agent]\nsandbox_start_timeout_s = {value}\n")
    assert "finite" in error.message


@pytest.mark.parametrize("path", ["", ".", "results", "~/results", "../nas"])
def test_a_relative_path_is_refused(path: str) -> None:
    error = refusal(f'[nas]\nresults = "{path}"\n')
    assert error.message == f"site.toml: nas.results must be an absolute path, not {path!r}"


def test_a_path_with_nul_is_refused() -> None:
    assert "absolute path" in refusal('[nas]\nresults = "/a\\u0000b"\n').message


def test_a_list_of_languages_names_at_least_one() -> None:
    assert "at least 1" in refusal("[messages]\nlanguages = []\n").message


def test_bad_toml_is_refused_with_line_and_column() -> None:
    error = refusal("[nas]\nresults = /mnt\n")
    assert error.message.startswith("site.toml: not valid TOML: ")
    assert "line 2" in error.message


def test_a_missing_file_is_refused_with_a_way_to_begin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config_file.load(tmp_path / "none.toml")
    assert str(tmp_path / "none.toml") in caught.value.message
    assert "sbridge config example" in caught.value.hint


def test_a_file_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin1.toml"
    path.write_bytes('[nas]\nresults = "/é"\n'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin1\.toml: cannot be read"):
        config_file.load(path)


def test_korean_paths_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "설정.toml"
    path.write_text('[nas]\nsubmit = "/공유/제출함"\n', encoding="utf-8")
    assert config_file.load(path).nas.submit == Path("/공유/제출함")


def test_the_file_is_found_by_argument_then_environment_then_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SBRIDGE_CONFIG", raising=False)
    assert config_file.find_path() == Path("/etc/sbridge/sbridge.toml")
    monkeypatch.setenv("SBRIDGE_CONFIG", "/env.toml")
    assert config_file.find_path() == Path("/env.toml")
    assert config_file.find_path(Path("/argument.toml")) == Path("/argument.toml")


def test_what_show_prints_is_read_as_the_same_configuration() -> None:
    odd = config_file.parse(
        '[nas]\nresults = "/결과/a \\"b\\" \\\\ c\\td"\n[sandbox]\nmounts = ["/a:ro", "/\\u007f"]\n'
        "[watcher]\nsettle_s = 1e-5\nscan_interval_s = 1e3\n[sandbox.x]\n".replace(
            "[sandbox.x]\n", ""
        ),
        "site.toml",
    )
    for original in (Config(), odd):
        assert config_file.parse(config_file.show(original), "shown") == original


def test_the_example_shows_every_setting_with_its_documentation() -> None:
    text = config_file.example()
    for table, key, _, entry in SETTINGS:
        assert f"\n[{table}]\n" in text
        assert f"\n#{key} = " in text
        for line in entry.metadata["doc"].split("\n"):
            assert f"# {line}\n" in text


def test_the_example_is_the_defaults_as_it_stands_and_with_every_line_uncommented() -> None:
    text = config_file.example()
    uncommented = re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE)
    assert config_file.parse(text, "example") == Config()
    assert config_file.parse(uncommented, "example") == Config()
    assert sum(len(table) for table in tomllib.loads(uncommented).values()) == len(SETTINGS)


def test_the_committed_example_is_in_step() -> None:
    committed = (ROOT / "examples/sbridge.toml").read_text(encoding="utf-8")
    assert committed == config_file.example(), (
        "run: python -m bridge.cli config example > examples/sbridge.toml"
    )


def test_every_setting_is_documented_in_lines_that_fit() -> None:
    for table, key, _, entry in SETTINGS:
        documentation = entry.metadata["doc"]
        assert documentation[0].isupper(), f"{table}.{key}"
        assert documentation.endswith("."), f"{table}.{key}"
        assert max(map(len, documentation.split("\n"))) <= 98, f"{table}.{key}"
