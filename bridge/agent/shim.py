"""Slurm's commands inside a sandbox: a script of shell builtins under their names.

The image may hold nothing but a POSIX shell, so the script can make no pipe and no socket. It
asks the step's keeper by a line through a named pipe (bridge.agent.door) and waits for a child,
which the keeper ends when the command has ended. Nothing is redirected in the script's own
process while it waits: the keeper takes its open files, and they must be the caller's.

A program stands before the script (native/front), which `scripts/install` has compiled.
"""

import contextlib
import os
import sys
from pathlib import Path

from bridge.errors import ConfigError

FRONT = Path(sys.prefix) / "libexec/sbridge-front"  # this version's
INSIDE = "/sbridge"
FOLDER = f"{INSIDE}/bin"
SCRIPTS = f"{INSIDE}/shim"
DOORS = f"{INSIDE}/steps"
_NEVER = f"{INSIDE}/never"  # a named pipe that nobody writes to
VARIABLE = "SBRIDGE_DOOR"
COMMANDS = (
    "sacct sacctmgr sattach sbatch sbcast scancel scontrol sdiag sinfo sprio squeue "
    "sreport srun sshare sstat strigger"
).split()
SIGNALS = "HUP INT QUIT PIPE USR1 USR2 ALRM TERM WINCH".split()
# Ctrl-Z stops the command on the node, too; TSTP stops no process whose group has no shell there.
STOPPING = ("STOP", "CONT")

_ALL = " ".join(SIGNALS)
# The node ends the waiting child by SIGPIPE: a shell says nothing of that.
_BORNE = " ".join(name for name in SIGNALS if name != "PIPE")
TEXT = f"""#!/bin/sh
# Has the node run the Slurm command of this name: see sbridge, docs/user.md.
for door in "${VARIABLE}" {DOORS}/*; do
    [ -p "$door/door" ] && break
done
if ! [ -p "$door/door" ]; then
    echo "sbridge: ${{0##*/}} reaches no node from this sandbox" >&2
    exit 1
fi
# Whose script has ended is about to be killed, and says nothing of it.
say() {{ {{ echo "$*" >"$door/door"; }} 2>/dev/null; }}
tell() {{
    caught=1
    ( trap '' {_ALL}; say "signal $$ $1" )
}}
stop() {{
    tell STOP
    trap - TSTP
    kill -TSTP $$
    trap stop TSTP
    tell CONT
}}
for name in {_ALL}; do
    trap "tell $name" $name
done
trap stop TSTP
tries=0
# Once is enough, unless a signal for all of the group ends the child before it ignores them.
while ! [ -e "$door/ended/$$" ] && [ $tries -lt 9 ]; do
    tries=$((tries + 1))
    (
        trap '' {_BORNE} TSTP
        read -r pid rest </proc/self/stat
        say "run $$ $pid $# ${{0##*/}}"
        read -r rest <{_NEVER}
    ) &
    caught=1
    while [ "$caught" ]; do # a signal ends `wait` early
        caught=
        wait $!
    done
done
for name in {_ALL} TSTP; do
    trap - $name
done
read -r how what <"$door/ended/$$"
case $how in
    exit) exit "$what" ;;
    signal)
        kill -"$what" $$
        exit $((128 + what)) ;;
    say) echo "sbridge: ${{0##*/}}: $what" >&2 ;;
esac
exit 1
"""


# A login shell begins with a PATH of the image's own; /etc/profile reads this last.
PROFILE = f"""case ":$PATH:" in
    *:{FOLDER}:*) ;;
    *) PATH={FOLDER}:$PATH ;;
esac
"""
PROFILE_NAME = "profile.sh"
PROFILE_INSIDE = "/etc/profile.d/zz-sbridge.sh"


def make_room(share: Path) -> None:
    """Put what every sandbox mounts into the node's share: a place for doors, and the PATH."""
    _make_folder(share / "steps")
    _put(share / PROFILE_NAME, PROFILE.encode(), 0o644)


def furnish(share: Path, front: Path = FRONT) -> None:
    """Put the commands into the node's share; raises `ConfigError` where `front` is no file."""
    scripts, folder = share / "shim", share / "bin"
    for path in (scripts, folder):
        _make_folder(path)
    for name in COMMANDS:
        _put(scripts / name, TEXT.encode(), 0o755)
    _make_never(share / Path(_NEVER).name)
    program = share / "front"
    _put_once(program, _content(front), 0o755)
    for name in COMMANDS:
        _link(program, folder / name)


def _make_folder(path: Path) -> None:
    path.mkdir(mode=0o755, exist_ok=True)
    path.chmod(0o755)


def _make_never(path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path)
    path.chmod(0o444)


def _content(front: Path) -> bytes:
    try:
        return front.read_bytes()
    except OSError as error:
        hint = "Run scripts/install again on this node: it compiles what is missing."
        what = f"{front}, a part of sbridge, cannot be read: {error.strerror}"
        raise ConfigError(what, hint=hint) from error


def _put_once(path: Path, content: bytes, mode: int) -> None:
    """Have a file that sandboxes execute stay as it is, unless its content is another."""
    if not path.exists() or path.read_bytes() != content:
        _put(path, content, mode)


def _put(path: Path, content: bytes, mode: int) -> None:
    draft = _draft(path)
    draft.write_bytes(content)
    draft.chmod(mode)
    os.replace(draft, path)


def _link(program: Path, path: Path) -> None:
    if not (path.exists() and path.samefile(program)):
        draft = _draft(path)
        os.link(program, draft)
        os.replace(draft, path)


def _draft(path: Path) -> Path:
    """Return a name beside it that nothing has: what an agent that died left there goes."""
    draft = path.with_name(".new")
    draft.unlink(missing_ok=True)
    return draft
