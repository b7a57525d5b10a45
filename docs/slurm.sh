#!/usr/bin/env bash
# An example for Slurm: train on two machines with four GPUs each, as often requeued as needed. Not run on a cluster:
# read it, adapt partition, account and paths, and try it with few epochs first.
#
#   sbatch docs/slurm.sh
#
#SBATCH --job-name=sam-cad
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1          # one torchrun a machine; it starts a process for each GPU
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16           # 4 processes, each with its --num_workers 3 and itself
#SBATCH --time=12:00:00
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append           # a requeued job goes on in the same file
#SBATCH --requeue                    # also after a machine fails: `--resume auto` then loses 10 minutes at most
#SBATCH --signal=TERM@300            # five minutes before the time is up, to the processes of srun: they save and end.
                                     # With B: (B:TERM@300) the signal goes to this script alone, which would have to
                                     # pass it on; without, torchrun gets it, which passes it on, and kills after 30 s
                                     # what has not saved by then.

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this with sbatch, in the folder of the project}"
source .venv/bin/activate

# Storage that all machines share, for all three: the first process alone writes weights and log, but every process
# encodes a share of the images and reads the others' embeddings from cache_dir.
data=/shared/data
output_dir=/shared/sam-cad
cache_dir=/shared/sam-cad/embeddings

export OMP_NUM_THREADS=1             # the processes are the parallelism; torchrun sets it too, with a warning
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# A new rendezvous id for every start: processes of the time before the requeue must not be met again.
# --batch_size is per process: 4 images on each of 8 GPUs are 32 a step, and the run can only be resumed on 8 again.
log=slurm-$SLURM_JOB_ID.out
seen=$(wc -l < "$log")               # what earlier starts wrote
status=0
srun torchrun \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node=4 \
    --rdzv_backend=c10d --rdzv_endpoint="$first:29500" --rdzv_id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
    code/run_cad.py --resume auto \
    --train_image_dir "$data/image" --train_mask_dir "$data/mask" --model_type vit_b --epoch 100 \
    --batch_size 4 --num_workers 3 --precision bf16 --device cuda \
    --output_dir "$output_dir" --cache_dir "$cache_dir" --wandb offline || status=$?

# Exit codes do not tell: torchrun ends with 1 however its processes ended. What tells is that a run saved itself in the
# last minutes: then it goes back into the queue. A run that failed for another reason (a wrong flag, numbers that are
# not finite) stays as it is, to be looked at.
if [ "$status" -ne 0 ] && tail -n "+$((seen + 1))" "$log" | grep "stopped and saved" >/dev/null; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
