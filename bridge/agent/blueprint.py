"""From a run's request to the sandbox's specification: names, mounts, identity, environment.

The user's word is checked here, as root: image and runtime against what the site allows.
"""

import fnmatch
import grp
import os
import pwd
import re
import shutil
from pathlib import Path

from bridge.agent import shim
from bridge.agent.job import JobRun, Request
from bridge.config import GPU_ALONE, GPU_INDEX, Config
from bridge.durable import write_atomically
from bridge.job_spool import JobSpool, NodeSpool, slurmd_script
from bridge.runtimes.manifest import INIT_PATH
from bridge.runtimes.sandbox import Mount, Sandbox, SandboxSpec, UserError
from bridge.slurm.hidden import JOB_NAME, KEPT
from bridge.slurm.jobs import NodeShare
from bridge.slurm.srun import HOST_FILE

# As Docker's reference grammar; and no name that containers/image takes for a way to local files.
_NAME = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::\d+)?/)?{_NAME}(?:/{_NAME})*"
    r"(?::[A-Za-z0-9_][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_TRANSPORTS = frozenset(
    "atomic containers-storage dir docker docker-archive docker-daemon oci oci-archive ostree sif "
    "tarball".split()
)
_NOT_IN_POD_NAMES = re.compile(r"[^a-z0-9.-]")
_INSIDE = str(Path(INIT_PATH).parent)


def runtime_of(job: JobRun, config: Config) -> str:
    """Return the runtime's name for the job; raises `UserError` when the site forbids it."""
    asked = job.request.asked
    if not asked.image:
        return "host"
    if not asked.runtime:
        return config.agent.runtime
    allowed = {config.agent.runtime, *config.agent.allowed_runtimes}
    if asked.runtime not in allowed:
        known = ", ".join(sorted(allowed))
        raise UserError(f"#K8S_RUNTIME={asked.runtime} is not offered here; choose one of: {known}")
    return asked.runtime


def sandbox_name(request: Request, node: str) -> str:
    """Return the pod's name: a run and a node never share it with another."""
    name = f"slurm-job-{request.run.job_id}"
    if len(request.node_names) > 1:
        name += f"-{_NOT_IN_POD_NAMES.sub('-', node.lower())}"
    return f"{name}-r{request.run.restart}" if request.run.restart else name


def specification(
    job: JobRun, config: Config, node: str, share: NodeShare, slurmd_spool: Path | None
) -> SandboxSpec:
    """Return what the runtime is to make; raises `UserError` for an image the site forbids.

    `slurmd_spool` is slurmd's SlurmdSpoolDir, None when that is unknown.
    """
    image = job.request.asked.image
    if not _REFERENCE.fullmatch(image) or image.partition(":")[0] in _TRANSPORTS:
        raise UserError(f"{image} is no image reference; write registry:port/name:tag")
    if not any(fnmatch.fnmatchcase(image, pattern) for pattern in config.sandbox.allowed_images):
        allowed = ", ".join(config.sandbox.allowed_images)
        raise UserError(f"image {image} is not allowed here; allowed are: {allowed}")
    variables = job.request.variables
    spool = NodeSpool.of(config.agent.spool_dir, node)
    gpus = _gpus(variables.get("SLURM_JOB_GPUS", ""))
    return SandboxSpec(
        name=sandbox_name(job.request, node),
        run=job.run,
        node=node,
        image=image,
        uid=job.request.uid,
        gid=job.request.gid,
        groups=tuple(groups_of(job.request.uid, job.request.gid)),
        user=variables.get("SLURM_JOB_USER", ""),
        account=variables.get("SLURM_JOB_ACCOUNT", ""),
        partition=variables.get("SLURM_JOB_PARTITION", ""),
        cpus=share.cpus,
        memory_mib=share.memory_mib,
        mounts=_mounts(job.spool, spool),
        host_network=config.sandbox.host_network,
        gpus=gpus,
        devices=_devices(config.sandbox.gpu_devices, gpus),
        folders=_folders(job.spool, config, slurmd_spool),
        commands=str(config.slurm.bin_dir),
    )


def _gpus(text: str) -> tuple[int, ...]:
    """Read SLURM_JOB_GPUS, the node's own indices: `0,2-3`."""
    spans = (span.partition("-") for span in text.split(",") if span)
    return tuple(index for low, _, high in spans for index in range(int(low), int(high or low) + 1))


def _devices(patterns: tuple[str, ...], gpus: tuple[int, ...]) -> tuple[str, ...]:
    """Return the device files of these GPUs, and those that all share, as far as there are any.

    Each once: parts of one GPU share its file.
    """
    paths = dict.fromkeys(path for pattern in patterns for path in _files(pattern, gpus))
    return tuple(path for path in paths if Path(path).is_char_device())


def _files(pattern: str, gpus: tuple[int, ...]) -> list[str]:
    if alone := GPU_ALONE.match(pattern):
        return [pattern[alone.end() :]] if int(alone[1]) in gpus else []
    return [_device(pattern, index) for index in (gpus if GPU_INDEX.search(pattern) else gpus[:1])]


def _device(pattern: str, index: int) -> str:
    return GPU_INDEX.sub(lambda found: str(index + int(found[1] or 0)), pattern)


def _mounts(spool: JobSpool, node: NodeSpool) -> tuple[Mount, ...]:
    """Return what is sbridge's own; an image's links may lead to it, so all is read-only."""
    return (
        Mount(str(node.share), _INSIDE, read_only=True),
        Mount(str(spool.share / "passwd"), "/etc/passwd", read_only=True, is_file=True),
        Mount(str(spool.share / "group"), "/etc/group", read_only=True, is_file=True),
        Mount(str(spool.steps), shim.DOORS, read_only=True),
        Mount(
            str(node.share / shim.PROFILE_NAME), shim.PROFILE_INSIDE, read_only=True, is_file=True
        ),
    )


def _folders(spool: JobSpool, config: Config, slurmd_spool: Path | None) -> tuple[Mount, ...]:
    """Return the user's folders and the site's, and what stands in the place of slurmd's."""
    own = [Mount(str(spool.out), str(spool.out))]
    if slurmd_spool is not None:
        own.append(Mount(str(spool.slurmd), str(slurmd_spool), read_only=True))
    wanted = map(Mount.of, config.sandbox.mounts)
    return (*own, *(mount for mount in wanted if os.path.isdir(mount.source)))


def groups_of(uid: int, gid: int) -> list[int]:
    """Return the user's groups as this node knows them; only `gid` for an unknown user."""
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]


def furnish_node(spool: NodeSpool, init: Path) -> None:
    """Make the folders of the node's spool and put the init where every sandbox sees it."""
    for folder, mode in ((spool.root, 0o711), (spool.jobs, 0o711), (spool.out_links, 0o711)):
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        folder.chmod(mode)
    spool.share.mkdir(mode=0o755, exist_ok=True)
    spool.share.chmod(0o755)
    draft = spool.share / "init.new"
    shutil.copyfile(init, draft)
    draft.chmod(0o755)
    draft.rename(spool.share / "init")
    shim.make_room(spool.share)


def furnish_job(job: JobRun, spool: NodeSpool, node: str) -> None:
    """Make the run's folders, and the link by which slurmd finds the user's own `out/`.

    The Prolog waits for it, so nobody is asked here whose answer may take its time.
    """
    paths = job.spool
    of_script = (paths.slurmd / slurmd_script(job.run.job_id)).parent
    hidden = ((paths.slurmd, 0o711), (of_script, 0o711))
    for folder, mode in ((paths.share, 0o755), (paths.steps, 0o755), *hidden):
        folder.mkdir(mode=mode, exist_ok=True)
        folder.chmod(mode)
    _give_out(job)
    if job.request.batch_host != node:
        return
    link = spool.out_link(job.run.job_id)
    draft = link.with_name(f".{link.name}.new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(paths.out)
    draft.rename(link)


def _give_out(job: JobRun) -> None:
    """Make `out/` and its content, and only then the user's: root makes nothing in his folders."""
    out, outputs = job.spool.out, job.spool.outputs
    out.mkdir(mode=0o700, exist_ok=True)
    if out.lstat().st_uid != os.geteuid():
        return  # given before
    outputs.mkdir(mode=0o700, exist_ok=True)
    for folder in (outputs, out):
        os.chown(folder, job.request.uid, job.request.gid, follow_symlinks=False)


def introduce(job: JobRun) -> None:
    """Write what tells the sandbox its user: passwd and group, of the site's user databases."""
    groups = groups_of(job.request.uid, job.request.gid)
    for name, text in (("passwd", _passwd(job.request.uid)), ("group", _group(groups))):
        content = os.fsencode(text)  # NSS knows names that are not UTF-8
        path = job.spool.share / name
        write_atomically(path, content, mode=0o644, survives_power_loss=False)


def _passwd(uid: int) -> str:
    lines = ["root:x:0:0:root:/root:/bin/sh", "nobody:x:65534:65534:nobody:/nonexistent:/bin/false"]
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        user = pwd.struct_passwd((f"user{uid}", "x", uid, uid, "", "/", "/bin/sh"))
    lines.append(
        f"{user.pw_name}:x:{user.pw_uid}:{user.pw_gid}:{user.pw_gecos}:{user.pw_dir}:{user.pw_shell}"
    )
    return "\n".join(lines) + "\n"


def _group(groups: list[int]) -> str:
    lines = ["root:x:0:", "nogroup:x:65534:"]
    for gid in groups:
        try:
            entry = grp.getgrgid(gid)
        except KeyError:
            continue
        lines.append(f"{entry.gr_name}:x:{entry.gr_gid}:{','.join(entry.gr_mem)}")
    return "\n".join(lines) + "\n"


def environment(
    given: list[bytes], sandbox: Sandbox | None, job: JobRun, door: str = ""
) -> list[bytes]:
    """Return a step's environment inside: as Slurm made it, but for what follows.

    SBRIDGE_OUTPUTS names the folder whose files become results, K8S_SCRIPT the file that
    #K8S_SCRIPT names, SBRIDGE_DOOR the step's door to Slurm's commands. PATH begins with the
    folder of these and the image's own, because its programs are the ones that are there; the
    job's other folders follow. Other variables of the image's are there where the job has none of
    that name.
    """
    ours = {b"SBRIDGE_OUTPUTS": os.fsencode(job.spool.outputs)}
    if job.request.asked.script:
        ours[b"K8S_SCRIPT"] = job.request.asked.script.encode()
    if door:
        ours[shim.VARIABLE.encode()] = door.encode()
    given = _taken_back(given)
    result = [pair for pair in given if pair.partition(b"=")[0] not in ours]
    result += [name + b"=" + value for name, value in ours.items()]
    if sandbox is None:
        return result
    names = {pair.partition(b"=")[0] for pair in result}
    image = [(os.fsencode(name), os.fsencode(value)) for name, value in sandbox.variables.items()]
    result += [name + b"=" + value for name, value in image if name not in names]
    return _with_path(result, sandbox.path)


def _taken_back(pairs: list[bytes]) -> list[bytes]:
    """Return the environment with the names that `KEPT` hid from the node's srun.

    What has its own name was given to srun by --export, or by the site, and counts; but srun sets
    the job's name itself, and was told another name of the file of hosts.
    """
    names = {pair.partition(b"=")[0] for pair in pairs}
    for name in (JOB_NAME, HOST_FILE):
        if KEPT + name in names:
            pairs = [pair for pair in pairs if not pair.startswith(name + b"=")]
            names.discard(name)
    hidden = (pair for pair in pairs if pair.startswith(KEPT))
    newer = {pair for pair in hidden if pair.partition(b"=")[0].removeprefix(KEPT) in names}
    return [pair.removeprefix(KEPT) for pair in pairs if pair not in newer]


def _with_path(pairs: list[bytes], image: str) -> list[bytes]:
    """Return the environment with the sandbox's own folders at the beginning of PATH."""
    ours = [shim.FOLDER.encode(), *filter(None, os.fsencode(image).split(b":"))]
    for index, pair in enumerate(pairs):
        if pair.startswith(b"PATH="):
            theirs = pair[5:].split(b":")
            if ours[0] in theirs:
                return pairs  # a task: the script inside has put it in order
            path = ours + [part for part in theirs if part not in ours]
            return [*pairs[:index], b"PATH=" + b":".join(path), *pairs[index + 1 :]]
    # Without any PATH a shell has one of its own.
    return [*pairs, b"PATH=" + b":".join(ours)] if image else pairs
