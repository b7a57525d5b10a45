"""Fill the embedding cache ahead of training: encode every view that a training run with the same flags will ask for.

    python code/embed.py --train_image_dir images --train_mask_dir masks --checkpoint sam_vit_b_01ec64.pth
    python code/embed.py --demo camouflage

Takes the flags of training, of which those of data, model, --views, --epoch, --seed, --image_size, --precision and
--cache_dtype decide what is encoded; with the same ones run_cad.py and run_decoder.py then encode nothing.
"""

import sys
from collections.abc import Sequence

from cad.errors import run_script
from cad.training.options import resolve_training, training_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = training_parser("embed.py", __doc__).parse_args(argv)

    def body() -> None:
        resolved = resolve_training(args)
        from cad.training.run import embed  # imports torch: not before the flags are right

        embed(resolved)

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
