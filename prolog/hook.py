"""Entry point of `sbridge-prolog` (slurm.conf Prolog, run by slurmd as root on every node)."""

from bridge import hook


def main(run_dir: str, slurm_bin: str) -> int:
    """Ask the agent to prepare the job's sandbox; returns the exit code slurmd sees."""
    return hook.run("prepare", run_dir, slurm_bin)
