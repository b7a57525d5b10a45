"""Evaluate trained weights on a test set and print one table.

python code/evaluate.py --checkpoint checkpoints/sam_cad.pth checkpoints/sam_sa.pth
python code/evaluate.py --checkpoint checkpoints/sam_cad.pth --test_image_dir images --test_mask_dir masks
"""

import sys
from collections.abc import Sequence

from cad.errors import run_script
from cad.options import evaluation_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = evaluation_parser("evaluate.py", __doc__).parse_args(argv)

    def body() -> None:
        from cad.evaluation.comparison import compare  # imports torch: not before the flags are right

        compare(args)

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
