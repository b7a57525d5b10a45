"""Train CAD: a convolutional adapter beside SAM's frozen image encoder, and SAM's mask decoder.

python code/run_cad.py --demo camouflage
python code/run_cad.py --train_image_dir images --train_mask_dir masks --checkpoint sam_vit_b_01ec64.pth
python code/run_cad.py --train_image_dir images --train_mask_dir masks --model_type vit_demo --epoch 5
"""

import sys
from collections.abc import Sequence

from cad.errors import run_script
from cad.options import resolve_training, training_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = training_parser("run_cad.py", __doc__).parse_args(argv)

    def body() -> None:
        resolved = resolve_training(args)
        from cad.training.run import train  # imports torch: not before the flags are right

        train(resolved, "cad")

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
