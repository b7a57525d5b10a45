"""Train SAM's mask decoder alone, on the frozen image encoder's embedding: the simplest baseline.

python code/run_decoder.py --demo camouflage
python code/run_decoder.py --train_image_dir images --train_mask_dir masks --checkpoint sam_vit_b_01ec64.pth
python code/run_decoder.py --train_image_dir images --train_mask_dir masks --model_type vit_demo --epoch 5
"""

import sys
from collections.abc import Sequence

from cad.training.start import run_training_script


def main(argv: Sequence[str] | None = None) -> int:
    return run_training_script("run_decoder.py", __doc__, "decoder", argv)


if __name__ == "__main__":
    sys.exit(main())
