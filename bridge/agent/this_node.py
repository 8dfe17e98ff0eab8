"""The node that an agent works for: its name, its settings, its Slurm and its spool."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bridge.config import Config
from bridge.job_spool import NodeSpool
from bridge.slurm.jobs import SlurmControl


@dataclass(frozen=True)
class ThisNode:
    """What every part of the agent knows of its node; `name` is Slurm's NodeName."""

    name: str
    config: Config
    slurm: SlurmControl
    log: Any

    @cached_property
    def spool(self) -> NodeSpool:
        return NodeSpool.of(self.config.agent.spool_dir, self.name)

    @cached_property
    def slurmd_spool(self) -> Path:
        """This node's SlurmdSpoolDir; raises `TemporaryError` while Slurm cannot be asked."""
        return self.slurm.slurmd_spool_dir(self.name)
