"""Entry point of `sbridge-epilog` (slurm.conf Epilog, run by slurmd as root on every node)."""

from bridge import hook


def main(run_dir: str, slurm_bin: str) -> int:
    """Ask the agent to finish the job on this node; returns the exit code slurmd sees."""
    return hook.run("finish", run_dir, slurm_bin)
