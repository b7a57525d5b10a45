#!/usr/bin/env bash
# Train CAD and SAM-Adapter, or other METHODS, and compare them. Edit the variables, or set them in the environment:
#
#   TRAIN_IMAGE_DIR=images TRAIN_MASK_DIR=masks ./run.sh
#
# With nothing set it trains on the built-in demo: no data, no SAM weights, no GPU and no account needed.

METHODS=${METHODS:-cad sa}                   # any of: cad sa decoder zero_shot
BATCH_SIZE=${BATCH_SIZE:-4}
PORT=${PORT:-29500}
DIST=${DIST:-False}
SEED=${SEED:-21}
MODEL_TYPE=${MODEL_TYPE:-}                   # vit_b, vit_l, vit_h, vit_demo; empty: vit_b
CHECKPOINT=${CHECKPOINT:-}                   # SAM's weights; empty: the official file name in checkpoints/
EPOCH=${EPOCH:-}                             # empty: 20
LR=${LR:-}                                   # empty: 2e-4
PROJECT_NAME=${PROJECT_NAME:-sam-cad}
TRAIN_IMAGE_DIR=${TRAIN_IMAGE_DIR:-}
TRAIN_MASK_DIR=${TRAIN_MASK_DIR:-}
DEMO=${DEMO:-camouflage}                     # which demo, when no data are set: camouflage or shadow

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$root/code/environment.sh"
check_methods "$METHODS"
find_python "$root" "$root/requirements.txt"

flags=(--batch_size "$BATCH_SIZE" --port "$PORT" --dist "$DIST" --seed "$SEED" --project_name "$PROJECT_NAME")
[ -n "$EPOCH" ] && flags+=(--epoch "$EPOCH")
[ -n "$LR" ] && flags+=(--lr "$LR")
[ -n "$MODEL_TYPE" ] && flags+=(--model_type "$MODEL_TYPE")
[ -n "$TRAIN_IMAGE_DIR" ] && flags+=(--train_image_dir "$TRAIN_IMAGE_DIR")
[ -n "$TRAIN_MASK_DIR" ] && flags+=(--train_mask_dir "$TRAIN_MASK_DIR")
[ -n "$CHECKPOINT" ] && flags+=(--checkpoint "$CHECKPOINT")
case " $* " in
    *" --train_"*|*" --checkpoint"*|*" --demo"*|*" --help "*) ;;
    *)
        if [ -z "$TRAIN_IMAGE_DIR$TRAIN_MASK_DIR$CHECKPOINT" ]; then
            echo "No data set: running the built-in $DEMO demo. For your own, set TRAIN_IMAGE_DIR and TRAIN_MASK_DIR (see README.md)."
            flags+=(--demo "$DEMO")
        fi
        ;;
esac

started=$(date +%s)
trained=
for method in $METHODS; do
    if [ "$method" = zero_shot ]; then
        echo "zero_shot: SAM as it is, nothing to train; ./eval.sh scores it"
    else
        "$PYTHON" "$root/code/run_$method.py" "${flags[@]}" --publish "sam_$method.pth" "$@"
        trained=yes
    fi
done
[ -z "$trained" ] && exit 0
echo
"$PYTHON" "$root/code/summarize.py" --since "$started" "$@"
