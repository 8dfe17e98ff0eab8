"""The settings: frozen dataclasses, one per component; `bridge.config_file` reads them.

Every field documents itself (`setting`), and the commented example file is generated from
that. Paths are absolute.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# In sandbox.gpu_devices: what a GPU's index stands for, and of which GPU alone a file is.
GPU_INDEX = re.compile(r"\{index(?:\+(\d+))?\}")
GPU_ALONE = re.compile(r"(\d{1,4}):(?=/)")
_RUNTIMES = ("kubernetes", "podman", "host")


def setting(default: Any, doc: str, **limits: Any) -> Any:
    """Declare a field: its default, its documentation and its limits.

    `doc` says meaning, unit, what 0 means and why this default. Limits: `low`, `high`
    (inclusive), `choices` (allowed strings), `least` (of a list: so many items at least).
    """
    return field(default=default, metadata={"doc": doc, **limits})


@dataclass(frozen=True)
class Nas:
    """The folders that users see. The watcher and the agents use the same ones."""

    submit: Path = setting(
        Path("/mnt/nas/slurm-jobs/submit"),
        "Where users drop job files. Must let every submitting user create and rename files\n"
        "(mode 1777, or group-writable); the watcher works in it with the owner's uid.",
    )
    processed: Path = setting(
        Path("/mnt/nas/slurm-jobs/processed"),
        "Where accepted job files go, as <jobid>_<name>. Same file system as `submit`, because\n"
        "a file is moved by rename.",
    )
    failed: Path = setting(
        Path("/mnt/nas/slurm-jobs/failed"),
        "Where refused job files go, each with a <name>.error.txt. Same file system as `submit`.",
    )
    results: Path = setting(
        Path("/mnt/nas/results"),
        "Where results/<JOB_ID>/ appear. Must let every user create folders (mode 1777).",
    )


@dataclass(frozen=True)
class Messages:
    """How sbridge speaks to users."""

    languages: tuple[str, ...] = setting(
        ("en", "ko"),
        "Languages of error files and summaries, in the order in which they are written.\n"
        "What the agent says on a job's stderr is in English.",
        choices=("en", "ko"),
        least=1,
    )


@dataclass(frozen=True)
class Watcher:
    """The daemon that takes job files from the NAS to sbatch."""

    state_dir: Path = setting(
        Path("/var/lib/sbridge/watcher"),
        "Local folder (never on the NAS) for locks of submissions under way.",
    )
    scan_interval_s: float = setting(
        5.0,
        "Seconds between two full scans of `nas.submit`. The scan is the truth; inotify only\n"
        "makes it faster, and sees nothing that other NFS clients do.",
        low=0.1,
        high=3600.0,
    )
    settle_s: float = setting(
        3.0,
        "A file found by a scan is taken once its size and times have not changed for this many\n"
        "seconds. A file that inotify saw closed or renamed into place is taken at once.",
        low=0.0,
        high=3600.0,
    )
    max_job_file_kib: int = setting(
        4096, "Largest job file, in KiB. slurmctld refuses scripts above 4 MiB.", low=1, high=65536
    )
    min_uid: int = setting(
        1000, "Files of users with a smaller uid are refused: root never submits.", low=1
    )
    parallel_submissions: int = setting(
        8,
        "How many submissions run at once; each is one short-lived process. One user gets at most\n"
        "half of them, and a user who has none may always begin one.",
        low=1,
        high=64,
    )
    nas_timeout_s: float = setting(
        30.0,
        "A NAS access that takes longer is given up and logged; the folder then counts as\n"
        "unreachable, never as empty.",
        low=1.0,
        high=3600.0,
    )
    sbatch_timeout_s: float = setting(
        60.0,
        "An sbatch that takes longer is ended; then Slurm is asked for the submission's tag.",
        low=1.0,
        high=3600.0,
    )
    doubt_settle_s: float = setting(
        20.0,
        "After a submission whose end is unknown, Slurm must deny knowing its tag for this many\n"
        "seconds before it is submitted again: a request may still wait in slurmctld's queue.\n"
        "Twice Slurm's MessageTimeout.",
        low=0.0,
        high=3600.0,
    )


@dataclass(frozen=True)
class Agent:
    """The daemon on each compute node that owns its sandboxes."""

    run_dir: Path = setting(
        Path("/run/sbridge"),
        "Holds <node>/agent.sock. The hooks and sbridge-run are installed with this path.",
    )
    spool_dir: Path = setting(
        Path("/var/spool/sbridge"),
        "Local disk for the jobs' records and outputs, as <node>/jobs/<jobid>.<restart>/. Needs\n"
        "room for the outputs of all running NAS jobs.",
    )
    runtime: str = setting(
        "podman",
        "The runtime of jobs that name none with #K8S_RUNTIME. `host` makes no sandbox.",
        choices=_RUNTIMES,
    )
    allowed_runtimes: tuple[str, ...] = setting(
        ("podman",), "What #K8S_RUNTIME may ask for.", choices=_RUNTIMES
    )
    step_cgroup: str = setting(
        "auto",
        "Which cgroup a job's processes are in: `slurm`, the step's own (Slurm then limits,\n"
        "signals and accounts them); `sandbox`, the container's; `auto`, the step's where Slurm\n"
        "made one (proctrack/cgroup), else the container's.",
        choices=("auto", "slurm", "sandbox"),
    )
    sandbox_start_timeout_s: float = setting(
        600.0,
        "How long a step waits for its sandbox when nobody is to blame; then the job is requeued.",
        low=1.0,
    )
    parallel_starts: int = setting(8, "How many sandboxes are made at once.", low=1, high=64)
    reconcile_interval_s: float = setting(
        300.0,
        "Seconds between two comparisons of sandboxes, records and Slurm's jobs (also done at\n"
        "start). A job is only taken for gone when Slurm said so.",
        low=1.0,
    )


@dataclass(frozen=True)
class Sandbox:
    """What every sandbox looks like, whatever the runtime."""

    init: Path = setting(
        Path("/usr/bin/catatonit"),
        "A static init on the node, mounted into each sandbox as its first process: any image\n"
        "works, even one without a shell.",
    )
    mounts: tuple[str, ...] = setting(
        ("/home", "/mnt/nas", "/usr/share/zoneinfo:ro"),
        "Paths of the node that every sandbox sees at the same place; `:ro` behind one makes it\n"
        "read-only. A path that the node lacks is left out. The time zones are here so that TZ\n"
        "means the same with every image.",
    )
    gpu_devices: tuple[str, ...] = setting(
        (
            "/dev/nvidia{index}",
            "/dev/nvidiactl",
            "/dev/nvidia-uvm",
            "/dev/nvidia-uvm-tools",
        ),
        "Device files that a job with GPUs sees: those with {index} once for each GPU that Slurm\n"
        "gave, the others once. The index is Slurm's, a file's place in the node's gres.conf,\n"
        "from 0; {index+128} adds to it. For AMD: /dev/dri/renderD{index+128} and /dev/kfd. A\n"
        "file behind `3:` belongs to the GPU with index 3 alone, for what numbers do not tell\n"
        "(MIG). A file that the node lacks is left out. Not used in Kubernetes where\n"
        "`kubernetes.gpu_runtime_class` names what brings the devices in.",
    )
    allowed_images: tuple[str, ...] = setting(
        ("*",),
        "Shell patterns of the images that jobs may name; `*` alone allows all. The full\n"
        "reference as the job wrote it must match one.",
    )
    host_network: bool = setting(
        True,
        "Share the node's network, as a Slurm job natively does. False gives each sandbox one\n"
        "of its own.",
    )


@dataclass(frozen=True)
class Podman:
    """The Podman runtime."""

    command: str = setting("podman", "The program, by name or absolute path.")
    global_options: tuple[str, ...] = setting(
        (), "Options put before podman's subcommand, such as `--root=…` and `--runroot=…`."
    )
    containers_conf: str = setting(
        "", "A containers.conf for this use only; empty means Podman's own."
    )
    timeout_s: float = setting(
        60.0,
        "A podman command that takes longer is ended. Pulling an image has no such limit.",
        low=1.0,
    )


@dataclass(frozen=True)
class Kubernetes:
    """The Kubernetes runtime: pods of a cluster whose kubelet runs on the node."""

    kubeconfig: str = setting(
        "",
        "The agent's credentials for the cluster; empty means those of the pod that the agent\n"
        "runs in. Read anew after each refusal, so tokens may be rotated.",
    )
    context: str = setting("", "The kubeconfig's context; empty means its current one.")
    namespace: str = setting(
        "sbridge", "Where the pods are. `sbridge kubernetes apply` makes it, with what they need."
    )
    user_namespaces: bool = setting(
        False,
        "Whether each user's pods are in a namespace of his, `user-NAME`, which the agent makes\n"
        "before the first one. The agents then have a role in the whole cluster, which a policy\n"
        "confines; for one site per cluster. After a change: `sbridge kubernetes apply`.",
    )
    node_names: tuple[str, ...] = setting(
        (),
        "Kubernetes' names of Slurm's nodes, as SLURM=KUBERNETES, hostlists on both sides:\n"
        "`n[1-4]=n[1-4].example.org`. One name on the right is shared by all on the left. A node\n"
        "that is not listed has the same name in both.",
    )
    image_pull_policy: str = setting(
        "IfNotPresent",
        "When the kubelet fetches an image.",
        choices=("IfNotPresent", "Always", "Never"),
    )
    image_pull_secrets: tuple[str, ...] = setting(
        (), "Names of the namespace's secrets with credentials for registries."
    )
    priority_class: str = setting(
        "sbridge-job",
        "The pods' PriorityClass; `sbridge kubernetes apply` makes this one, which preempts\n"
        "nobody. Empty means the cluster's default.",
    )
    runtime_class: str = setting("", "The pods' RuntimeClass; empty means the cluster's default.")
    gpu_runtime_class: str = setting(
        "", "The RuntimeClass of pods with GPUs, such as `nvidia`; empty means `runtime_class`."
    )
    gpu_resource: str = setting(
        "nvidia.com/gpu",
        "The extended resource that a job's GPUs are requested as; empty requests none.",
    )
    tolerations: tuple[str, ...] = setting(
        (), "Taints that the pods tolerate, as KEY[=VALUE][:EFFECT]."
    )
    timeout_s: float = setting(
        15.0, "An API request that takes longer counts as not answered.", low=1.0
    )


@dataclass(frozen=True)
class Results:
    """What becomes of a NAS job's outputs."""

    mirror_interval_s: float = setting(
        2.0,
        "While a job runs, what it has written to stdout and stderr since is appended to the\n"
        "NAS every so many seconds.",
        low=0.1,
    )
    parallel_publications: int = setting(
        4,
        "How many results are brought to the NAS at once per node, half of them for one user.\n"
        "They have low priority and at most a quarter of the node's CPUs.",
        low=1,
        high=64,
    )
    retry_s: float = setting(
        15.0, "Seconds until the next try when the NAS did not take the results.", low=0.1
    )
    keep_local_h: float = setting(
        0.0,
        "Hours that a job's local copy stays after its results are complete on the NAS.\n"
        "0 removes it at once.",
        low=0.0,
    )


@dataclass(frozen=True)
class Slurm:
    """How Slurm is reached."""

    bin_dir: Path = setting(Path("/usr/bin"), "Where sbatch, squeue, scontrol and sacct are.")
    conf: str = setting(
        "", "Path of slurm.conf; empty means $SLURM_CONF or what Slurm was built with."
    )
    timeout_s: float = setting(
        30.0, "A Slurm query that takes longer counts as not answered.", low=1.0
    )


@dataclass(frozen=True)
class Logging:
    """Where the daemons log."""

    dir: Path = setting(
        Path("/var/log/sbridge"),
        "One JSON object per line in <component>.log (watcher.log, agent-<node>.log).",
    )
    level: str = setting(
        "info",
        "The least severe level that is written.",
        choices=("debug", "info", "warning", "error"),
    )


@dataclass(frozen=True)
class Config:
    """The whole file; each field is one table of it."""

    nas: Nas = field(default_factory=Nas)
    messages: Messages = field(default_factory=Messages)
    watcher: Watcher = field(default_factory=Watcher)
    agent: Agent = field(default_factory=Agent)
    sandbox: Sandbox = field(default_factory=Sandbox)
    podman: Podman = field(default_factory=Podman)
    kubernetes: Kubernetes = field(default_factory=Kubernetes)
    results: Results = field(default_factory=Results)
    slurm: Slurm = field(default_factory=Slurm)
    logging: Logging = field(default_factory=Logging)
