"""The node's folders in a sandbox: put in place by a child of the forge, not by the runtime.

An image may hold a link where the runtime is about to make a file, a folder or a device, and so
lead it, as root, into whatever is mounted by then. So nothing is while the runtime is at work:
the child takes the mounts along into the running sandbox. Before it moves the first, it has found
or made all their places, in the image's own files: no link leads into a folder of the node until
nothing is made any more.
"""

import contextlib
import errno
import os
import socket
import sys

from bridge import kernel, wire
from bridge.agent import command_links
from bridge.agent.forge import Forge
from bridge.errors import TemporaryError
from bridge.runtimes.sandbox import Mount, Sandbox, SandboxSpec, UserError

_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_DEVICES = b"/dev"
_SHARED_MEMORY = b"/dev/shm"
_TIMEOUT_S = 30.0
# What an image's own files and links bring about, where a folder must be.
_OF_IMAGES = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EROFS, errno.ENAMETOOLONG),
        *(errno.EPERM, errno.EACCES),  # of /dev/pts and the like
    }
)
# What the runtime mounted: root works there, and must not find a folder of the node.
_TAKEN = (b"/dev/", b"/proc/", b"/sys/", b"/sbridge/")


def put_in_place(forge: Forge, sandbox: Sandbox, spec: SandboxSpec) -> None:
    """Have the folders of `spec` moved to their places in its sandbox, before anybody enters.

    Raises `UserError` where the image has no room for one, `TemporaryError` when the node has
    none itself now, the sandbox has ended or the forge has no child to spare.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            init = _open_init(sandbox)
            fields: wire.Fields = []
            for folder in sorted(spec.folders, key=_target):
                fields.append(("source", os.fsencode(folder.source)))
                fields.append(("target", os.fsencode(_target(folder))))
                fields.append(("read_only", b"1" if folder.read_only else b"0"))
            if spec.commands:
                fields.append(("commands", os.fsencode(spec.commands)))
            try:
                forge.send(wire.Message("place", fields), [theirs.fileno(), init])
            finally:
                os.close(init)
        ours.settimeout(_TIMEOUT_S)
        try:
            answer, _ = wire.receive(ours)
        except (OSError, wire.WireError) as error:
            raise TemporaryError(f"the folders of sandbox {sandbox.name}: {error}") from error
    if answer is None:
        raise TemporaryError(f"sandbox {sandbox.name} got none of its folders")
    if answer.kind == "placed":
        return
    text = answer.text("text")
    if answer.kind == "away":
        raise TemporaryError(f"waiting for a folder to be mounted: {text}")
    if int(answer.first("errno")) in _OF_IMAGES:
        raise UserError(f"the sandbox with image {spec.image} cannot be made: {text}")
    raise TemporaryError(f"the folders of sandbox {sandbox.name}: {text}")


def _target(folder: Mount) -> str:
    return folder.target.rstrip("/")


def _open_init(sandbox: Sandbox) -> int:
    gone = TemporaryError(f"sandbox {sandbox.name} ended at once")
    try:
        init = kernel.open_process(sandbox.init_pid)
    except OSError as error:
        raise gone from error
    try:
        if kernel.start_ticks(init) == sandbox.init_start:
            return init
    except OSError:
        pass
    os.close(init)
    raise gone


def serve(message: wire.Message, descriptors: list[int]) -> None:
    """Handle the agent's `place` in a child of the forge."""
    connection, init = socket.socket(fileno=descriptors[0]), descriptors[1]
    targets = message.every("target")
    with connection:
        try:
            trees = _take(message.every("source"), message.every("read_only"))
        except OSError as error:
            text = f"{os.fsdecode(error.filename)}: {os.strerror(error.errno or 0)}"
            wire.send(connection, wire.Message("away", [("text", os.fsencode(text))]))
            return
        try:
            _move(trees, targets, message.first("commands"), init)
            answer = wire.Message("placed")
        except OSError as error:
            answer = _failure(error)
        wire.send(connection, answer)


def _failure(error: OSError) -> wire.Message:
    place = os.fsdecode(error.filename or b"")
    text = os.fsencode(f"{place} must be a folder there: {error.strerror}")
    return wire.Message("failed", [("errno", b"%d" % (error.errno or 0)), ("text", text)])


def _take(sources: list[bytes], read_only: list[bytes]) -> list[int]:
    """Return the mounts of the node's folders, for another namespace."""
    trees = []
    for source, flag in zip(sources, read_only, strict=True):
        try:
            trees.append(kernel.open_trees(source, read_only=flag == b"1"))
        except OSError as error:
            raise OSError(error.errno, error.strerror, source) from error
    return trees


def _move(trees: list[int], targets: list[bytes], commands: bytes, init: int) -> None:
    namespace = os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=init)
    is_executable = _is_executable_memory()
    own = os.open("/proc/self/fd", _PLACE)
    sys.meta_path.clear()  # nothing is imported from the image
    sys.path.clear()
    os.umask(0o022)
    kernel.setns(namespace, kernel.CLONE_NEWNS)
    # runc follows such a link on the node itself; no image needs one.
    os.close(os.open(_DEVICES, _PLACE | os.O_NOFOLLOW))
    if is_executable:
        with contextlib.suppress(OSError):  # it is no mount there, or the site's
            kernel.let_execute(os.open(_SHARED_MEMORY, _PLACE | os.O_NOFOLLOW))
    places = {}
    for target in targets:
        if not _is_in_another(target, targets):
            places[target] = _place(target)
            _check_way(target, os.readlink(b"%d" % places[target], dir_fd=own))
    if commands and not _is_in_another(commands + b"/", targets):
        with contextlib.suppress(OSError):  # they are in PATH all the same
            place = _place(commands)
            _check_way(commands, os.readlink(b"%d" % place, dir_fd=own))
            command_links.make(place)
    for tree, target in zip(trees, targets, strict=True):
        # One in another is in the node's files by now, where nothing is made.
        place = places[target] if target in places else os.open(target, _PLACE)
        try:
            kernel.move_mount_onto(tree, place)
        except OSError as error:
            raise OSError(error.errno, error.strerror, target) from error


def _is_executable_memory() -> bool:
    """Whether programs in the node's shared memory may be executed; runtimes forbid it."""
    try:
        return not os.statvfs(_SHARED_MEMORY).f_flag & os.ST_NOEXEC
    except OSError:
        return False


def _check_way(target: bytes, place: bytes) -> None:
    """Refuse a link of the image's that leads out of its own files."""
    if place != target and (place == b"/" or (place + b"/").startswith(_TAKEN)):
        raise OSError(errno.ELOOP, f"a link leads to {os.fsdecode(place)}", target)


def _is_in_another(target: bytes, targets: list[bytes]) -> bool:
    return any(target.startswith(other.rstrip(b"/") + b"/") for other in targets)


def _place(target: bytes) -> int:
    """Return a descriptor of the folder `target`, which is made where the image lacks it."""
    parts = target.strip(b"/").split(b"/")
    for depth in range(len(parts)):
        try:
            os.mkdir(b"/" + b"/".join(parts[: depth + 1]), 0o755)
        except FileExistsError:
            continue
    return os.open(target, _PLACE)
