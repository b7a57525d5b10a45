r"""Evaluate trained weights, and SAM zero-shot, on a test set: tables, intervals and files in runs/<start time>-eval/.

python code/evaluate.py --checkpoint checkpoints/sam_cad.pth checkpoints/sam_sa.pth
python code/evaluate.py --checkpoint checkpoints/sam_cad.pth --test_image_dir images --test_mask_dir masks
python code/evaluate.py --checkpoint a.pth b.pth --method zero_shot --test_image_dir images --test_mask_dir masks \
    --metric_size original --mask_threshold 128 --save_masks
python code/evaluate.py --method zero_shot --model_type vit_b --sam_checkpoint sam_vit_b_01ec64.pth \
    --test_image_dir images --test_mask_dir masks
"""

import sys
from collections.abc import Sequence

from cad.errors import run_script
from cad.evaluation.options import evaluation_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = evaluation_parser("evaluate.py", __doc__).parse_args(argv)

    def body() -> None:
        from cad.evaluation.comparison import compare  # imports torch: not before the flags are right

        compare(args)

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
