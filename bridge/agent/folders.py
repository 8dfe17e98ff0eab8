"""The node's folders in a sandbox: mounted aside by the container runtime, then put in place.

An image may hold a link where the runtime is about to make a file, a folder or a device, and so
lead it, as root, into whatever is mounted by then. So the runtime mounts the node's folders
below a name that no image can know, and a child of the forge moves them from there. Before it
moves the first, it has found or made all their places, in the image's own files: no link leads
into a folder of the node until nothing is made any more.
"""

import errno
import hashlib
import hmac
import os
import secrets
import socket
import sys

from bridge import kernel, wire
from bridge.agent.forge import Forge
from bridge.durable import write_atomically
from bridge.errors import TemporaryError
from bridge.job_spool import NodeSpool, RunId
from bridge.runtimes.sandbox import Mount, Sandbox, SandboxSpec, UserError

_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_DEVICES = b"/dev"
_KEY_BYTES = 32
_TIMEOUT_S = 30.0
# What an image's own files and links bring about, where a folder must be.
_OF_IMAGES = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EROFS, errno.ENAMETOOLONG})


def make_key(spool: NodeSpool) -> None:
    """Make the secret that `aside` comes of, once for a node."""
    if not spool.key.exists():
        write_atomically(spool.key, secrets.token_bytes(_KEY_BYTES))


def aside(spool: NodeSpool, run: RunId) -> str:
    """Return where the runtime mounts a run's folders: always the same, as far as root knows."""
    try:
        key = spool.key.read_bytes()
    except OSError:  # not on the node itself, or not root: nothing will be made of it
        key = secrets.token_bytes(_KEY_BYTES)
    return f"/sbridge-{hmac.digest(key, str(run).encode(), hashlib.sha256).hex()[:32]}"


def outermost(folders: tuple[Mount, ...]) -> list[str]:
    """Return the places of those folders that are in no other one, which takes them along."""
    targets = sorted({folder.target.rstrip("/") for folder in folders})
    return [
        target for target in targets if not any(target.startswith(f"{other}/") for other in targets)
    ]


def put_in_place(forge: Forge, sandbox: Sandbox, spec: SandboxSpec) -> None:
    """Have the folders of `spec` moved to their places in its sandbox, before anybody enters.

    Raises `UserError` where the image has no room for one, `TemporaryError` when the sandbox
    has ended or the forge has no child to spare.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            init = _open_init(sandbox)
            fields: wire.Fields = [("aside", os.fsencode(spec.aside))]
            fields += [("target", os.fsencode(target)) for target in outermost(spec.folders)]
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
    if int(answer.first("errno")) in _OF_IMAGES:
        raise UserError(f"the sandbox with image {spec.image} cannot be made: {text}")
    raise TemporaryError(f"the folders of sandbox {sandbox.name}: {text}")


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
    with connection:
        try:
            _move(message.first("aside"), message.every("target"), init)
            answer = wire.Message("placed")
        except OSError as error:
            what = os.fsdecode(error.filename or b"")
            text = os.fsencode(f"{what} must be a folder there: {error.strerror}")
            fields: wire.Fields = [("errno", b"%d" % (error.errno or 0)), ("text", text)]
            answer = wire.Message("failed", fields)
        wire.send(connection, answer)


def _move(aside: bytes, targets: list[bytes], init: int) -> None:
    namespace = os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=init)
    sys.meta_path.clear()  # nothing is imported from the image
    sys.path.clear()
    os.umask(0o022)
    kernel.setns(namespace, kernel.CLONE_NEWNS)
    # runc follows such a link on the node itself; no image needs one.
    os.close(os.open(_DEVICES, _PLACE | os.O_NOFOLLOW))
    places = [_place(target) for target in targets]
    for target, place in zip(targets, places, strict=True):
        source = os.open(aside + target, _PLACE)
        try:
            kernel.move_mount_onto(source, place)
        except OSError as error:
            raise OSError(error.errno, error.strerror, target) from error
    for target in targets:
        _remove(aside, target)


def _place(target: bytes) -> int:
    """Return a descriptor of the folder `target`, which is made where the image lacks it."""
    parts = target.strip(b"/").split(b"/")
    for depth in range(len(parts)):
        try:
            os.mkdir(b"/" + b"/".join(parts[: depth + 1]), 0o755)
        except FileExistsError:
            continue
    return os.open(target, _PLACE)


def _remove(aside: bytes, target: bytes) -> None:
    """Remove the empty folders that the runtime made to mount it."""
    path = aside + target
    while len(path) >= len(aside):
        try:
            os.rmdir(path)
        except OSError:
            return  # others are below it
        path = path.rpartition(b"/")[0]
