"""Slurm's commands inside a sandbox: a script of shell builtins under their names.

The image may hold nothing but a POSIX shell, so the script can make no pipe and no socket. It
asks the step's keeper by a line through a named pipe (bridge.agent.door) and waits for a child,
which the keeper ends when the command has ended. Nothing is redirected in the script's own
process while it waits: the keeper takes its open files, and they must be the caller's.

Where the node's processor allows it, a program stands before the script (bridge.agent.launcher).
"""

import contextlib
import os
import signal
from pathlib import Path

from bridge.agent import launcher

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
# These wait for signals that they were started to ignore.
_TAKING_IGNORED = ("sattach", "srun")
_KEYS = (signal.SIGINT, signal.SIGQUIT)
SIGNALS = "HUP INT QUIT USR1 USR2 ALRM TERM WINCH".split()
# Ctrl-Z stops the command on the node, too; TSTP stops no process whose group has no shell there.
STOPPING = ("STOP", "CONT")

_ALL = " ".join(SIGNALS)
TEXT = f"""#!/bin/sh
# Has the node run the Slurm command of this name: see sbridge, docs/user.md.
for door in "${VARIABLE}" {DOORS}/*; do
    [ -p "$door/door" ] && break
done
if ! [ -p "$door/door" ]; then
    echo "sbridge: ${{0##*/}} reaches no node from this sandbox" >&2
    exit 1
fi
tell() {{
    caught=1
    ( trap '' {_ALL}; echo "signal $$ $1" >"$door/door" )
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
        trap '' {_ALL} TSTP
        read -r pid rest </proc/self/stat
        echo "run $$ $pid $# ${{0##*/}}" >"$door/door"
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


def furnish(share: Path) -> None:
    """Put the files that every sandbox sees into the node's share; make room for the doors."""
    (share / "steps").mkdir(mode=0o755, exist_ok=True)
    scripts, folder = share / "shim", share / "bin"
    for path in (scripts, folder):
        path.mkdir(mode=0o755, exist_ok=True)
    for path in (share / "steps", scripts, folder):
        path.chmod(0o755)
    for name in COMMANDS:
        _put(scripts / name, TEXT.encode(), 0o755)
        _put(folder / name, _program(name) or TEXT.encode(), 0o755)
    _make_never(share / Path(_NEVER).name)
    _put(share / PROFILE_NAME, PROFILE.encode(), 0o644)


def _make_never(path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path)
    path.chmod(0o444)


def _program(name: str) -> bytes | None:
    return launcher.program(
        f"{SCRIPTS}/{name}",
        _KEYS if name in _TAKING_IGNORED else (),
        f"sbridge: {name} needs a /bin/sh inside, and this image has none\n",
    )


def _put(path: Path, content: bytes, mode: int) -> None:
    draft = path.with_name(".new")
    draft.write_bytes(content)
    draft.chmod(mode)
    os.replace(draft, path)
