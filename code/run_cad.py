"""Train CAD: a convolutional adapter beside SAM's frozen image encoder, and SAM's mask decoder.

python code/run_cad.py --demo camouflage
python code/run_cad.py --train_image_dir images --train_mask_dir masks --checkpoint sam_vit_b_01ec64.pth
python code/run_cad.py --train_image_dir images --train_mask_dir masks --model_type vit_demo --epoch 5
"""

import sys
from collections.abc import Sequence

from cad.training.start import run_training_script


def main(argv: Sequence[str] | None = None) -> int:
    return run_training_script("run_cad.py", __doc__, "cad", argv)


if __name__ == "__main__":
    sys.exit(main())
