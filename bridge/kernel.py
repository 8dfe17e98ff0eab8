"""The few system calls that Python 3.11 lacks, and what /proc tells of processes.

Every function that asks about a process takes a descriptor of its /proc folder: unlike a pid,
it never comes to mean another process.
"""

import _signal  # type: ignore[import-not-found]
import contextlib
import ctypes
import errno
import os
import resource
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_AT_FDCWD = -100
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_OPEN_TREE = 428  # these two have one number on all of today's architectures
_MOVE_MOUNT = 429
_MOUNT_SETATTR = 442
_OPEN_TREE_CLONE = 1
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_MOUNT_ATTR_RDONLY = 1
_MOUNT_ATTR_NOEXEC = 8
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_SYS_PIDFD_GETFD = 438  # on every architecture

# The same numbers on every architecture; glibc 2.36 and newer has functions for them.
_SYS_FSCONFIG = 431
_SYS_FSPICK = 433
_FSPICK_CLOEXEC = 1
_FSPICK_EMPTY_PATH = 8
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_RECONFIGURE = 7

_libc = ctypes.CDLL(None, use_errno=True)


def setns(descriptor: int, kind: int) -> None:
    """Join the namespace behind `descriptor` (setns(2)); `kind` is one CLONE_NEW… flag."""
    _check(_libc.setns(descriptor, kind), "setns")


def open_tree(path: str) -> int:
    """Return a mount of the file at `path` that is nowhere yet (open_tree(2), OPEN_TREE_CLONE)."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    return _check(_libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), "open_tree")


def open_trees(path: bytes, *, read_only: bool) -> int:
    """Return what is mounted at and below the folder `path`, which is nowhere yet.

    Nothing that is mounted here or there later is seen there or here.
    """
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    tree = _check(_libc.syscall(_OPEN_TREE, _AT_FDCWD, path, flags), "open_tree")
    try:
        _set_attributes(tree, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY if read_only else 0, 0, _MS_PRIVATE)
    except OSError:
        os.close(tree)
        raise
    return tree


def let_execute(mount: int) -> None:
    """Have files executed in the mount whose root this is; in this process's mount namespace."""
    _set_attributes(mount, 0, 0, _MOUNT_ATTR_NOEXEC, 0)


def _set_attributes(mount: int, flags: int, added: int, removed: int, propagation: int) -> None:
    attributes = struct.pack("QQQQ", added, removed, propagation, 0)  # struct mount_attr
    size = ctypes.c_size_t(len(attributes))
    flags |= _AT_EMPTY_PATH
    _check(_libc.syscall(_MOUNT_SETATTR, mount, b"", flags, attributes, size), "mount_setattr")


def move_mount(tree: int, target: bytes) -> None:
    """Put a mount of `open_tree` onto the file `target`, which may be no link."""
    moved = _libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, target, _MOVE_MOUNT_F_EMPTY_PATH)
    _check(moved, "move_mount")


def move_mount_onto(source: int, place: int) -> None:
    """Move the mount whose root is `source` onto the folder `place`; both may be O_PATH."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _check(_libc.syscall(_MOVE_MOUNT, source, b"", place, b"", flags), "move_mount")


def unshare_mounts() -> None:
    """Give this process a copy of its mount namespace; what is mounted there stays there."""
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    _check(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "mount(MS_PRIVATE)")


def renounce_privileges(uid: int, gid: int, groups: list[int]) -> None:
    """Become the user for good: no capability, none to be gained, not to be traced.

    Must run in a process with one thread. Drops the bounding set first, which needs the
    capability that it drops.
    """
    capability = 0
    while (held := _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0)) >= 0:
        if held:
            _check(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "prctl(PR_CAPBSET_DROP)")
        capability += 1
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    make_undumpable()


def make_undumpable() -> None:
    """Keep every other process of the user from tracing or reading this one."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def die_with_parent() -> None:
    """Have this process killed when its parent ends; to be called right after the fork."""
    parent = os.getppid()
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (a "child subreaper")."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def resize_tmpfs(root: int, size_bytes: int) -> None:
    """Set the size of the tmpfs whose root is `root`, of whatever mount namespace it is.

    Unlike mount(2) with MS_REMOUNT, which wants to be in that namespace.
    """
    flags = _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH
    context = _libc.syscall(_SYS_FSPICK, root, b"", flags)
    _check(context, "fspick")
    try:
        size = b"%d" % size_bytes
        done = _libc.syscall(_SYS_FSCONFIG, context, _FSCONFIG_SET_STRING, b"size", size, 0)
        _check(done, "fsconfig(size)")
        done = _libc.syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_RECONFIGURE, None, None, 0)
        _check(done, "fsconfig(reconfigure)")
    finally:
        os.close(context)


def mount_id(descriptor: int) -> int:
    """Return the id of the mount through which a file was opened."""
    text = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    return int(text.partition("mnt_id:")[2].split()[0])


def _check(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def open_process(pid: int) -> int:
    """Return a descriptor of /proc/<pid>; raises OSError (ESRCH, ENOENT) when there is none."""
    return os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def pid_of(held: int) -> int:
    """Return the pid of the process that a pidfd holds; raises OSError once it has ended."""
    with open(f"/proc/self/fdinfo/{held}", "rb") as file:
        for line in file:
            key, _, value = line.partition(b":")
            if key == b"Pid" and int(value) > 0:
                return int(value)
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


@contextlib.contextmanager
def process_of(held: int) -> Iterator[int]:
    """Give a descriptor of the /proc folder of the process that a pidfd holds.

    Raises OSError when it has ended.
    """
    process = open_process(pid_of(held))
    try:
        signal.pidfd_send_signal(held, 0)  # still there, so the pid was its own all the time
        yield process
    finally:
        os.close(process)


def pidfd_getfd(held: int, number: int) -> int:
    """Return a duplicate of another process's open file (pidfd_getfd(2)), close-on-exec."""
    result: int = _libc.syscall(_SYS_PIDFD_GETFD, held, number, 0)
    _check(result, "pidfd_getfd")
    return result


def read(process: int, name: str) -> bytes:
    """Return the content of /proc/<pid>/`name`."""
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    try:
        parts = []
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Identity:
    """Who a process is: its real, effective, saved and file-system ids, and its groups.

    And what a child has from it as well: umask, and the numbers of the signals that it ignores
    and that its main thread has blocked.
    """

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    umask: int
    ignored: frozenset[int]
    blocked: frozenset[int]


def identity(process: int) -> Identity:
    """Read the process's ids; a process whose ids are not all one changed them itself."""
    lines = dict(line.partition(b":")[::2] for line in read(process, "status").splitlines())
    if b"Umask" not in lines:  # a zombie's
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    def numbers(key: bytes) -> tuple[int, ...]:
        return tuple(map(int, lines[key].split()))

    def signals(key: bytes) -> frozenset[int]:
        mask = int(lines[key], 16)
        return frozenset(number for number in _signal.valid_signals() if mask >> (number - 1) & 1)

    return Identity(
        numbers(b"Uid"),
        numbers(b"Gid"),
        numbers(b"Groups"),
        int(lines[b"Umask"], 8),
        signals(b"SigIgn"),
        signals(b"SigBlk"),
    )


def processes() -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Yield the pids of all processes, each with its parent, process group and session."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = _fields(file.read())
        except OSError:
            continue  # it ended
        yield int(name), (int(fields[1]), int(fields[2]), int(fields[3]))


def _stat(process: int) -> list[bytes]:
    return _fields(read(process, "stat"))


def _fields(stat: bytes) -> list[bytes]:
    """Return the fields of /proc/<pid>/stat (proc(5)) from the state on."""
    return stat.rpartition(b")")[2].split()


def state(process: int) -> bytes:
    """Return the process's state: R, S, D, T, Z and so on; raises OSError when it is gone."""
    return _stat(process)[0]


def is_dead(process: int) -> bool:
    """Whether the process has ended and only waits to be collected; OSError: it is gone."""
    return state(process) in (b"Z", b"X")


def start_ticks(process: int) -> int:
    """Return when the process started, in clock ticks since boot: with its pid, its name."""
    return int(_stat(process)[19])


def parent(process: int) -> int:
    """Return the pid of the process's parent, 0 where that is in another pid namespace."""
    return int(_stat(process)[1])


def is_alive(pid: int, start: int) -> bool:
    """Whether the process of this pid and start (`start_ticks`) has not ended."""
    try:
        process = open_process(pid)
    except OSError:
        return False
    try:
        return start_ticks(process) == start and not is_dead(process)
    except OSError:
        return False
    finally:
        os.close(process)


def nice(process: int) -> int:
    """Return the process's nice value, -20 to 19."""
    return int(_stat(process)[16])


_LIMITS = {
    b"Max cpu time": resource.RLIMIT_CPU,
    b"Max file size": resource.RLIMIT_FSIZE,
    b"Max data size": resource.RLIMIT_DATA,
    b"Max stack size": resource.RLIMIT_STACK,
    b"Max core file size": resource.RLIMIT_CORE,
    b"Max resident set": resource.RLIMIT_RSS,
    b"Max processes": resource.RLIMIT_NPROC,
    b"Max open files": resource.RLIMIT_NOFILE,
    b"Max locked memory": resource.RLIMIT_MEMLOCK,
    b"Max address space": resource.RLIMIT_AS,
    b"Max pending signals": resource.RLIMIT_SIGPENDING,
    b"Max msgqueue size": resource.RLIMIT_MSGQUEUE,
    b"Max nice priority": resource.RLIMIT_NICE,
    b"Max realtime priority": resource.RLIMIT_RTPRIO,
    b"Max realtime timeout": resource.RLIMIT_RTTIME,
}


def limits(process: int) -> dict[int, tuple[int, int]]:
    """Return the process's resource limits: RLIMIT_… → (soft, hard)."""
    found = {}
    for line in read(process, "limits").splitlines()[1:]:
        kind = _LIMITS.get(line[:26].strip())
        if kind is not None:
            soft, hard = line[26:].split()[:2]
            found[kind] = (_limit(soft), _limit(hard))
    return found


def _limit(text: bytes) -> int:
    return resource.RLIM_INFINITY if text == b"unlimited" else int(text)


def set_limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit of this process, or the nearest that CAP_SYS_RESOURCE's absence allows."""
    try:
        resource.setrlimit(kind, (soft, hard))
    except (ValueError, PermissionError):
        ceiling = resource.getrlimit(kind)[1]
        hard = _least(hard, ceiling)
        resource.setrlimit(kind, (_least(soft, hard), hard))


def _least(one: int, other: int) -> int:
    finite = [value for value in (one, other) if value != resource.RLIM_INFINITY]
    return min(finite) if finite else resource.RLIM_INFINITY
