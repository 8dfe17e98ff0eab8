"""Talk to Slurm with its own commands: the only place that starts them."""
