"""The programs of native/, compiled for tests: as scripts/install does, and with sanitizers."""

import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
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
eval "$(sed -n '/^compile[a-z_]*()/,/^}/p' "$tree/scripts/install")"
"compile_$1" "$2"
"""


class Built:
    """The folder of this session, and the programs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._findings = folder / "findings"
        self._findings.mkdir()

    def sanitized(self, name: str, source: str, **paths: str | Path | int) -> Path:
        """Compile native/<source> with checks; a path is defined as a text, a number as it is."""
        options = self.folder / "options.c"
        options.write_text(_OPTIONS.format(log=self._findings / "found"))
        words = [
            f"-D{key}={value}" if isinstance(value, int) else f'-D{key}="{value}"'
            for key, value in paths.items()
        ]
        sources = [*sorted((ROOT / "native" / source).glob("*.c")), options]
        return self._made(name, ["cc", *_WARNINGS, *_SANITIZERS, *words, *sources, "-o"])

    def as_installed(self, source: str, *, cc: str | Path = "cc", **variables: str | Path) -> Path:
        """Compile native/<source> by the function of scripts/install, with its variables."""
        given = {"tree": ROOT, "cc": cc, "compiler_packages": "", **variables}
        words = [f"{key}={value}" for key, value in given.items()]
        name = f"{source}-by-{Path(cc).name}"
        return self._made(name, ["env", *words, "sh", "-c", _AS_INSTALLED, "sh", source])

    def _made(self, name: str, command: list[Any]) -> Path:
        program = self.folder / name
        done = subprocess.run([*command, program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return program

    def findings(self) -> list[str]:
        """Take what the sanitizers have found since the last call."""
        found = sorted(self._findings.iterdir())
        texts = [path.read_text(errors="replace") for path in found]
        for path in found:
            path.unlink()
        return texts
