#!/bin/bash
#SBATCH --job-name=hello
#SBATCH --time=5
#SBATCH --ntasks=1
#SBATCH --mem=100
#K8S_IMAGE=localhost/sbridge-demo:latest

echo "Hello from job $SLURM_JOB_ID on $(hostname), as $(whoami)."
echo "안녕하세요, 작업 ${SLURM_JOB_ID}번입니다."
echo "This line goes to stderr." >&2

# Whatever is in this folder at the end comes back to the NAS as outputs/.
seq 1 10 | awk '{ print $1, $1 * $1 }' > "$SBRIDGE_OUTPUTS/squares.txt"
sleep 3
echo "Done."
