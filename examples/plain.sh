#!/bin/bash
#SBATCH --job-name=plain
#SBATCH --time=5
#SBATCH --mem=100

# No #K8S_ line: an ordinary Slurm job on the node itself. Dropped into the NAS folder, its
# output comes back the same way.
echo "Job $SLURM_JOB_ID runs on $(hostname) without a sandbox."
date > "$SBRIDGE_OUTPUTS/when.txt"
