#!/usr/bin/env bash
# Score checkpoints/sam_cad.pth and checkpoints/sam_sa.pth, or other METHODS, on a test set. Edit the variables, or set
# them in the environment:
#
#   TEST_IMAGE_DIR=images TEST_MASK_DIR=masks ./eval.sh
#
# With nothing set it scores weights of the built-in demo on the demo's test set.

METHODS=${METHODS:-cad sa}                   # any of: cad sa decoder zero_shot (SAM as it is, nothing trained)
BATCH_SIZE=${BATCH_SIZE:-4}
SEED=${SEED:-21}
MODEL_TYPE=${MODEL_TYPE:-}                   # empty: that of the trained weights; for zero_shot alone vit_b
CHECKPOINT=${CHECKPOINT:-}                   # SAM's weights; empty: looked for beside the trained weights and in checkpoints/
TEST_IMAGE_DIR=${TEST_IMAGE_DIR:-}
TEST_MASK_DIR=${TEST_MASK_DIR:-}

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$root/code/environment.sh"
check_methods "$METHODS"
find_python "$root" "$root/requirements.txt"

flags=(--batch_size "$BATCH_SIZE" --seed "$SEED")
[ -n "$CHECKPOINT" ] && flags+=(--sam_checkpoint "$CHECKPOINT")
[ -n "$TEST_IMAGE_DIR" ] && flags+=(--test_image_dir "$TEST_IMAGE_DIR")
[ -n "$TEST_MASK_DIR" ] && flags+=(--test_mask_dir "$TEST_MASK_DIR")
[ -n "$MODEL_TYPE" ] && flags+=(--model_type "$MODEL_TYPE")
checkpoints=()
for method in $METHODS; do
    if [ "$method" = zero_shot ]; then
        flags+=(--method zero_shot)
    else
        checkpoints+=("$root/checkpoints/sam_$method.pth")
    fi
done
[ ${#checkpoints[@]} -gt 0 ] && flags+=(--checkpoint "${checkpoints[@]}")

"$PYTHON" "$root/code/evaluate.py" "${flags[@]}" "$@"
