#!/usr/bin/env bash
# Train CAD and SAM-Adapter, or other METHODS, and compare them. Edit the variables, or set them in the environment:
#
#   TRAIN_IMAGE_DIR=images TRAIN_MASK_DIR=masks ./run.sh
#
# With nothing set it trains on the built-in demo: no data, no SAM weights, no GPU and no account needed.
# ./run.sh --resume auto goes on with runs that were cut off.

METHODS=${METHODS:-cad sa}                   # any of: cad sa decoder zero_shot
BATCH_SIZE=${BATCH_SIZE:-}                   # empty: 4; on several GPUs, of each
PORT=${PORT:-29500}
DIST=${DIST:-False}                          # True: all GPUs of this machine
SEED=${SEED:-}                               # empty: 21
MODEL_TYPE=${MODEL_TYPE:-}                   # vit_b, vit_l, vit_h, vit_demo, efficientnet_lite0 (not for sa, zero_shot); empty: vit_b
CHECKPOINT=${CHECKPOINT:-}                   # SAM's weights; empty: the official file name in checkpoints/
EPOCH=${EPOCH:-}                             # empty: 20
LR=${LR:-}                                   # empty: 2e-4, or 2e-3 where the mask decoder starts from random weights
PROJECT_NAME=${PROJECT_NAME:-}               # of Weights & Biases; empty: sam-cad
TRAIN_IMAGE_DIR=${TRAIN_IMAGE_DIR:-}
TRAIN_MASK_DIR=${TRAIN_MASK_DIR:-}
DEMO=${DEMO:-camouflage}                     # which demo, when no data are set: camouflage or shadow

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$root/code/environment.sh"
check_methods "$METHODS"
case " $MODEL_TYPE $* " in
    *" efficientnet_lite0 "*|*"=efficientnet_lite0 "*)
        case " $METHODS " in
            *" sa "*|*" zero_shot "*)
                echo 'error: sa and zero_shot need SAM'"'"'s own encoder: METHODS="cad decoder" goes with efficientnet_lite0' >&2
                exit 2
                ;;
        esac
        ;;
esac
find_python "$root" "$root/requirements.txt"

# A resumed run has its own data and flags: a default that is passed to it could differ from them, and be refused.
resumed=" $("$PYTHON" "$root/code/unfinished.py" --methods $METHODS "$@") "
flags=(--port "$PORT" --dist "$DIST")
[ -n "$BATCH_SIZE" ] && flags+=(--batch_size "$BATCH_SIZE")
[ -n "$SEED" ] && flags+=(--seed "$SEED")
[ -n "$PROJECT_NAME" ] && flags+=(--project_name "$PROJECT_NAME")
[ -n "$EPOCH" ] && flags+=(--epoch "$EPOCH")
[ -n "$LR" ] && flags+=(--lr "$LR")
[ -n "$MODEL_TYPE" ] && flags+=(--model_type "$MODEL_TYPE")
[ -n "$TRAIN_IMAGE_DIR" ] && flags+=(--train_image_dir "$TRAIN_IMAGE_DIR")
[ -n "$TRAIN_MASK_DIR" ] && flags+=(--train_mask_dir "$TRAIN_MASK_DIR")
[ -n "$CHECKPOINT" ] && flags+=(--checkpoint "$CHECKPOINT")
demo=
case " $* " in
    *" --train_"*|*" --checkpoint"*|*" --demo"*|*" --help "*) ;;
    *)
        if [ -z "$TRAIN_IMAGE_DIR$TRAIN_MASK_DIR$CHECKPOINT" ]; then
            demo=yes
        fi
        ;;
esac

# Flags of CAD's adapter are for CAD alone; where it is not trained, the others refuse them.
of_cad=("${flags[@]}" "$@")
of_others=("${flags[@]}")
is_value=
for word in "$@"; do
    case "$is_value$word" in
        yes*) is_value= ;;
        --adapter | --adapter_scale | --adapter_gate) is_value=yes ;;
        --adapter=* | --adapter_scale=* | --adapter_gate=* | --no_high_frequency) ;;
        *) of_others+=("$word") ;;
    esac
done
case " $METHODS " in
    *" cad "*) ;;
    *) of_others=("${of_cad[@]}") ;;
esac

started=$(date +%s)
trained= said=
for method in $METHODS; do
    if [ "$method" = zero_shot ]; then
        echo "zero_shot: SAM as it is, nothing to train; ./eval.sh scores it"
    else
        own=(--publish "sam_$method.pth")
        case "$demo$resumed" in
            yes*" $method "*) ;; # goes on with the data that it has
            yes*)
                own+=(--demo "$DEMO")
                [ -n "$said" ] || echo "No data set: running the built-in $DEMO demo. For your own, set TRAIN_IMAGE_DIR and TRAIN_MASK_DIR (see README.md)."
                said=yes
                ;;
        esac
        case "$method" in
            cad) "$PYTHON" "$root/code/run_cad.py" "${own[@]}" "${of_cad[@]}" ;;
            *) "$PYTHON" "$root/code/run_$method.py" "${own[@]}" "${of_others[@]}" ;;
        esac
        trained=yes
    fi
done
[ -z "$trained" ] && exit 0
echo
"$PYTHON" "$root/code/summarize.py" --since "$started" "$@"
