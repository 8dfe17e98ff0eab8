"""The rules of CONTRIBUTING.md that a machine can check."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("bridge", "watcher", "validator", "prolog", "epilog")
FOLDERS = {
    ".ci", "bridge", "docs", "epilog", "examples", "native", "prolog", "scripts", "slurm-conf",
    "systemd", "tests", "validator", "watcher",
}  # fmt: skip
FILES = {
    ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "pyproject.toml",
    "requirements-dev.lock", "requirements.lock",
}  # fmt: skip
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "tools"}
BINARIES = {".png", ".gz", ".tar", ".ico"}

# Written so that this file does not match itself.
FOREIGN = {
    "a path of somebody's machine": r"(?<![\w.*])/(?:work/|root/(?!\.)|home/(?!alice|bob)[a-z]+/)",
    "a package index": r"py[p]i\.org|python[h]osted|npm[j]s\.|proxy\.go[l]ang|deb\.deb[i]an",
    "an unfinished place": r"\b(?:TO[D]O|FIX[M]E|X{3})\b",
}


def files_of_the_project() -> list[Path]:
    """Return what git tracks or would track, as far as it exists."""
    names = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others",
         "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()  # fmt: skip
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(*argv: str) -> None:
    """Run a checker; what it says is the test's failure."""
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"


def test_ruff_finds_nothing() -> None:
    run(sys.executable, "-m", "ruff", "check", ".")


def test_the_code_is_formatted() -> None:
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_the_types_are_right_in_every_package() -> None:
    run(sys.executable, "-m", "mypy", "--strict")


def test_imports_keep_to_the_layers() -> None:
    run(str(Path(sys.executable).parent / "lint-imports"), "--no-cache")


def test_the_top_level_holds_the_agreed_names_only() -> None:
    tops = {path.relative_to(ROOT).parts[0] for path in files_of_the_project()}
    assert tops - FOLDERS - FILES == set()
    assert (FOLDERS | FILES) - tops == set(), "these are missing"


@pytest.mark.parametrize("path", files_of_the_project(), ids=relative)
def test_a_file_names_nothing_that_belongs_elsewhere(path: Path) -> None:
    if path.suffix in BINARIES:
        return
    text = path.read_text(encoding="utf-8")
    for what, pattern in FOREIGN.items():
        found = re.search(pattern, text)
        assert found is None, f"{what}: {text[max(0, found.start() - 40) : found.end() + 40]!r}"


@pytest.mark.parametrize("path", modules(*PACKAGES), ids=relative)
def test_a_module_says_what_it_is_and_has_a_telling_name(path: Path) -> None:
    assert path.stem not in VAGUE_NAMES
    if path == ROOT / "bridge/__init__.py":
        assert path.read_text() == "", "stays empty, so that a leaf drags nothing in"
    else:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert (path.parent / "__init__.py").exists()


def test_the_wheel_holds_exactly_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == list(PACKAGES)
    assert sorted(project["tool"]["importlinter"]["root_packages"]) == sorted(PACKAGES)


@pytest.mark.parametrize("path", modules("tests"), ids=relative)
def test_tests_are_named_in_sentences(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    short = [name for name in names if name.startswith("test_") and name.count("_") < 3]
    assert short == [], "say who does what when"


def documents() -> list[Path]:
    return [path for path in files_of_the_project() if path.suffix == ".md"]


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_a_document_cites_only_what_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
    cited = [name for name in re.findall(r"`([\w.-]+/[\w./-]*)`", text)
             if name.partition("/")[0] in FOLDERS]  # fmt: skip
    assert [name for name in cited if not (ROOT / name).exists()] == []
    tests = "\n".join(f"{test.name}\n{test.read_text()}" for test in modules("tests"))
    named = re.findall(r"`(test_\w+(?:\.py)?)`", text)
    assert [name for name in named if not re.search(rf"\b{re.escape(name)}\b", tests)] == []


def test_unit_tests_mirror_the_code() -> None:
    for path in modules("tests/unit"):
        name = path.stem.removeprefix("test_")
        folder = path.relative_to(ROOT / "tests/unit").parent
        if path.stem.startswith("test_") and folder.parts and folder.parts[0] in PACKAGES:
            subject = ROOT / folder / name
            assert subject.with_suffix(".py").exists() or subject.is_dir(), relative(path)
        if path.stem.startswith("test_") and folder.is_relative_to("native"):
            assert (ROOT / folder / f"{name}.c").exists(), relative(path)


@pytest.mark.parametrize("path", sorted((ROOT / "native").glob("*/*.c")), ids=relative)
def test_the_compilers_analyzer_finds_nothing(path: Path, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("the analyzer is gcc's")
    # What is not freed before a program ends or becomes another program is no leak.
    warnings = ("-Wall", "-Wextra", "-Wshadow", "-Wpointer-arith", "-Wstrict-prototypes", "-Werror")
    analysis = ("-fanalyzer", "-Wno-analyzer-malloc-leak", "-O2", "-std=gnu11", *warnings)
    paths = [f'-D{name}="/{name}"' for name in ("RUN_DIR", "RUNNER", "STAND_IN")]
    run("gcc", *analysis, *paths, "-c", "-o", str(tmp_path / "object"), str(path))


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_the_locks_pin_every_package_by_hash_and_name_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    pins = re.findall(r"^[a-z0-9][\w.-]*==\S+ \\$", text, re.MULTILINE)
    requirements = re.findall(r"^\S", text.replace("#", " "), re.MULTILINE)
    assert len(pins) == len(requirements) > 20
    assert "://" not in text


def test_the_locks_agree_and_hold_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = [
        set(re.findall(r"^(\S+==\S+) \\$", (ROOT / lock).read_text(), re.MULTILINE))
        for lock in ("requirements.lock", "requirements-dev.lock")
    ]
    assert pins[0] < pins[1]
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]
    locked = [{pin.partition("==")[0] for pin in lock} for lock in pins]
    assert {re.split(r"[>=<~!]", name)[0] for name in wanted} <= locked[0]
    development = project["project"]["optional-dependencies"]["dev"]
    assert {re.split(r"[>=<~!]", name)[0] for name in development} <= locked[1]


def scripts() -> list[Path]:
    return [
        path
        for path in files_of_the_project()
        if relative(path).startswith(("scripts/", ".ci/")) and path.read_bytes()[:2] == b"#!"
    ]


@pytest.mark.parametrize("path", scripts(), ids=relative)
def test_a_shell_script_parses_and_stops_at_errors(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    if "python" in first:
        return
    shell = "/bin/bash" if "bash" in first else "/bin/sh"
    run(shell, "-n", str(path))
    assert re.search(r"^set -[a-z]*e", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert path.stat().st_mode & 0o111, "not executable"
