"""scripts/install: into a prefix of its own, from a copy of the tree that a test may change."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# Holds the locked dependencies after the first run of the tests or of scripts/dev-cluster.
CACHE = Path("/var/cache/sbridge") if os.geteuid() == 0 else Path("/tmp/sbridge-test-cache")


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the source tree."""
    copy = tmp_path_factory.mktemp("source") / "tree"
    unwanted = shutil.ignore_patterns(".git", "__pycache__", ".*_cache")
    shutil.copytree(REPOSITORY, copy, ignore=unwanted)
    return copy


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("i") / "prefix"


@pytest.fixture
def install(tree, prefix) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Install the copy into the prefix."""

    def run(
        *options: str, path: str = "", compiler: str = "", **changes: str
    ) -> subprocess.CompletedProcess[str]:
        given = {"--prefix": str(prefix), "--cache": str(CACHE)} | changes
        words = [word for pair in given.items() for word in pair]
        environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}".lstrip(":")}
        if compiler:
            environment["CC"] = compiler
        command = [str(tree / "scripts/install"), *words, *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def installed(install, prefix) -> Path:
    """The prefix, up to date."""
    ended = install()
    assert ended.returncode == 0, ended.stderr
    return prefix


def test_a_second_run_changes_nothing_and_takes_no_second(install, installed):
    before = sorted((path, path.lstat().st_mtime_ns) for path in installed.glob("*/*"))
    began = time.monotonic()
    ended = install()
    assert time.monotonic() - began < 1
    assert ended.stdout == f"{installed} is up to date.\n"
    assert sorted((path, path.lstat().st_mtime_ns) for path in installed.glob("*/*")) == before


def test_the_commands_run(installed):
    for name in ("sbridge", "sbridge-agent", "sbridge-watcher"):
        ended = subprocess.run(
            [installed / "bin" / name, "--help"], capture_output=True, check=False
        )
        assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("hook", ["sbridge-prolog", "sbridge-epilog"])
def test_a_hook_does_nothing_for_a_plain_job(installed, hook):
    """Slurm starts hooks with neither PATH nor HOME."""
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_UID": "1000", "SLURMD_NODENAME": "n1"}
    ended = subprocess.run([installed / "bin" / hook], env=job, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    "name", ["libexec/sbridge-stand-in", "bin/sbridge-prolog", "bin/sbridge-epilog"]
)
def test_launchers_start_python_isolated_and_without_site(installed, name):
    first = (installed / name).read_text().splitlines()[0]
    assert first == f"#!{installed}/venv/bin/python -IS"


def test_sbridge_run_starts_as_a_program_and_as_an_interpreter(installed):
    """Slurm starts it as the interpreter of a script."""
    script = installed / "script"
    script.write_text(f"#!{installed}/bin/sbridge-run /bin/sh -e\n")
    script.chmod(0o755)
    for argv in ([installed / "bin/sbridge-run", "/bin/sh"], [script, "x"]):
        ended = subprocess.run(argv, env={}, capture_output=True, check=False)
        assert (ended.returncode, ended.stdout) == (1, b"")
        assert b"sbridge: not inside a Slurm job" in ended.stderr


def test_sbridge_run_needs_no_library_of_the_node(installed):
    program = (installed / "bin/sbridge-run").read_bytes()
    assert program.startswith(b"\x7fELF")
    assert b"/ld-linux" not in program
    broken = {"LD_PRELOAD": "/etc/passwd", "LD_LIBRARY_PATH": "/no/such", "LD_DEBUG": "all"}
    ended = subprocess.run(
        [installed / "bin/sbridge-run"], env=broken, capture_output=True, check=False
    )
    assert ended.stderr.startswith(b"sbridge: usage: ")


def test_an_agent_without_the_program_before_the_script_says_so_and_is_mended(
    install, installed, tmp_path
):
    config = tmp_path / "sbridge.toml"
    config.write_text(
        f'[agent]\nspool_dir = "{tmp_path}/spool"\nrun_dir = "{tmp_path}/run"\n'
        f'[logging]\ndir = "{tmp_path}/log"\n'
    )
    program = (installed / "venv").resolve() / "libexec/sbridge-front"
    program.unlink()
    argv = [installed / "bin/sbridge-agent", f"--config={config}", "--node=n1"]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 78
    said, hint = ended.stderr.splitlines()
    assert said.startswith(f"sbridge-agent: {program}, a part of sbridge, cannot be read: ")
    assert hint.startswith("Run scripts/install again")
    assert install().returncode == 0
    assert program.stat().st_mode & 0o777 == 0o755


def test_sbridge_run_is_compiled_anew_when_its_source_changes(install, installed, tree):
    source = tree / "native/run/run.c"
    text = source.read_text()
    source.write_text(text.replace("usage: ", "use it so: "))
    try:
        assert install().returncode == 0
        ended = subprocess.run([installed / "bin/sbridge-run"], capture_output=True, check=False)
    finally:
        source.write_text(text)
    assert ended.stderr.startswith(b"sbridge: use it so: ")


def test_what_the_version_before_had_in_libexec_goes(install, prefix):
    left = prefix / "libexec/sbridge-run"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text("#!/opt/sbridge/venv/bin/python -IS\n")
    runner = prefix / "bin/sbridge-run"
    runner.unlink(missing_ok=True)
    runner.parent.mkdir(parents=True, exist_ok=True)
    runner.write_bytes(b"\x7fELF")  # was a file of its own
    assert install(**{"--run-dir": "/run/after"}).returncode == 0
    assert not left.exists()
    assert runner.readlink() == Path("../venv/bin/sbridge-run")


def without_static_library(folder: Path) -> str:
    """Give a compiler that links with no library."""
    program(folder / "cc", 'exec cc -nostdlib "$@"')
    return str(folder / "cc")


@pytest.fixture(params=["no-compiler", "no-static-library"])
def poor(request, tmp_path) -> tuple[str, str]:
    """Give a compiler that cannot do it, and what is said of it."""
    if request.param == "no-compiler":
        return "/no/such/cc", "there is no C compiler '/no/such/cc'; sbridge-run is compiled"
    compiler = without_static_library(tmp_path)
    return compiler, f"'{compiler}' could not compile sbridge-run"


def test_without_what_compiles_nothing_is_installed(install, tmp_path, poor):
    compiler, words = poor
    prefix = tmp_path / "prefix"
    ended = install(compiler=compiler, **{"--prefix": str(prefix)})
    assert ended.returncode == 1
    assert f"scripts/install: {words}" in ended.stderr
    assert (
        "apt-get install gcc libc6-dev; on Red Hat's: dnf install gcc glibc-static" in ended.stderr
    )
    assert not [path for name in ("bin/*", "venv", ".installed") for path in prefix.glob(name)]


def test_without_what_compiles_the_version_before_stays_in_force(install, installed, poor):
    def state():
        return [(path, path.lstat().st_mtime_ns) for path in installed.glob("[!.v]*/*")] + [
            (installed / "venv").readlink()
        ]

    before = state()
    assert install(compiler=poor[0], **{"--run-dir": "/run/other"}).returncode == 1
    assert state() == before
    ended = install(compiler=poor[0])
    assert ended.stdout == f"{installed} is up to date.\n"


def test_shipped_files_name_this_installation(install, installed):
    given = {"--run-dir": "/run/elsewhere", "--config": "/etc/else/where.toml"}
    assert install(**given).returncode == 0
    for folder in ("slurm-conf", "systemd"):
        shipped = sorted(path.name for path in (REPOSITORY / folder).iterdir() if path.is_file())
        assert sorted(path.name for path in (installed / "share" / folder).iterdir()) == shipped
        for path in (installed / "share" / folder).iterdir():
            text = path.read_text()
            assert not re.search(r"/opt/sbridge|/run/sbridge|/etc/sbridge/sbridge\.toml", text)
    assert (
        f"Prolog={installed}/bin/sbridge-prolog\n"
        in (installed / "share/slurm-conf/sbridge.conf").read_text()
    )
    for name in ("bin/sbridge-prolog", "bin/sbridge-run"):
        assert b"/run/elsewhere" in (installed / name).read_bytes()


@pytest.mark.parametrize(
    ("version", "field"),
    [
        ("slurm-wlm 22.05.8", "comment"),
        ("slurm 23.02.0", "extra"),
        ("slurm 24.11.5", "extra"),
        ("slurm 26.05.1-0rc1", "extra"),
    ],
)
def test_the_request_travels_where_this_slurms_hooks_can_read_it(
    install, prefix, tmp_path, version, field
):
    program(tmp_path / "slurmctld", f"echo {version}")
    assert install("--slurm-bin", str(tmp_path)).returncode == 0
    lua = (prefix / "share/slurm-conf/job_submit.lua").read_text()
    assert f'\nlocal REQUEST_FIELD = "{field}"\n' in lua
    assert f'\nlocal SBRIDGE_RUN = "{prefix}/bin/sbridge-run"\n' in lua


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_the_slurm_that_is_named_counts_and_not_the_one_in_the_path(install, prefix, tmp_path):
    program(tmp_path / "slurm/sbin/slurmctld", "echo slurm 24.11.5")
    program(tmp_path / "path/slurmctld", "echo slurm 22.05.8")
    assert install("--slurm-bin", f"{tmp_path}/slurm/bin", path=f"{tmp_path}/path").returncode == 0
    lua = (prefix / "share/slurm-conf/job_submit.lua").read_text()
    assert '\nlocal REQUEST_FIELD = "extra"\n' in lua


def test_a_hook_drains_its_node_with_the_slurm_that_is_named(install, prefix, tmp_path):
    program(tmp_path / "bin/scontrol", f'echo "$@" >{tmp_path}/asked')
    assert install("--slurm-bin", f"{tmp_path}/bin", "--run-dir", str(tmp_path)).returncode == 0
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_EXTRA": "sbridge1?image=a", "SLURMD_NODENAME": "n1"}
    ended = subprocess.run([prefix / "bin/sbridge-prolog"], env=job, check=False)
    assert ended.returncode == 1
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("update NodeName=n1 State=DRAIN Reason=sbridge: prepare of job 1: ")


def test_a_changed_tree_replaces_the_version_in_one_step(install, installed, tree):
    old = (installed / "venv").readlink()
    module = tree / "bridge/version.py"
    text = module.read_text()
    module.write_text(f"{text}\nCHANGED = True\n")
    try:
        assert install().returncode == 0
        new = (installed / "venv").readlink()
        assert new != old
        assert (installed / old).is_dir(), "what still runs from the old version needs it"
        site = next((installed / "venv/lib").glob("python3.*")) / "site-packages"
        assert "CHANGED" in (site / "bridge/version.py").read_text()
    finally:
        module.write_text(text)
    assert install().returncode == 0
    assert len(list((installed / "versions").iterdir())) == 2


def test_a_failed_upgrade_leaves_the_old_version_in_force(install, installed, tree):
    old = (installed / "venv").readlink()
    project = tree / "pyproject.toml"
    text = project.read_text()
    project.write_text(text.replace('path = "bridge/version.py"', 'path = "bridge/none.py"'))
    try:
        ended = install()
    finally:
        project.write_text(text)
    assert ended.returncode == 1
    assert "scripts/install: pip could not install the project" in ended.stderr
    assert (installed / "venv").readlink() == old
    assert install().stdout == f"{installed} is up to date.\n"


def test_dependencies_are_what_the_lock_says(installed):
    listing = subprocess.run(
        [installed / "venv/bin/python", "-m", "pip", "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    locked = re.findall(
        r"^([\w.-]+==\S+) \\", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE
    )
    have = {line.lower().replace("_", "-") for line in listing.split()}
    assert {line.lower().replace("_", "-") for line in locked} <= have


def test_of_a_cache_only_dependencies_go_that_nobody_uses(install, tmp_path):
    """Somebody may name a folder that holds more than this cache."""
    unused, others, used = "0123456789abcdef", "apt-xapian-index", "fedcba9876543210"
    cache = tmp_path / "cache"
    for name in (unused, others, used):
        (cache / name).mkdir(parents=True)
    for dependencies in CACHE.glob("[0-9a-f]" * 16):  # as links: they may not be downloaded again
        subprocess.run(["cp", "-al", dependencies, cache], check=True)
    for name in (unused, others):
        os.utime(cache / name, (0, 0))
    ended = install(**{"--prefix": str(tmp_path / "prefix"), "--cache": str(cache)})
    assert ended.returncode == 0, ended.stderr
    assert not (cache / unused).exists()
    assert (cache / others).exists()
    assert (cache / used).exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--prefix": "relative"}, "--prefix must be an absolute path"),
        ({"--prefix": "/opt/with space"}, "may hold only letters"),
        ({"--prefix": "/opt/a|b"}, "may hold only letters"),
        ({"--prefix": "/opt/" + "x" * 100}, "longer than 100 characters"),
        ({"--python": "/no/such/python"}, "/no/such/python is not there"),
        ({"--wheelhouse": "/x"}, "unknown option '--wheelhouse'"),
    ],
)
def test_options_that_cannot_work_are_refused(install, changes, words):
    ended = install(**changes)
    assert ended.returncode == 1
    assert words in ended.stderr
    assert ended.stderr.startswith("scripts/install: ")
