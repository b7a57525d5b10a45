r"""Predict the masks of new images: masks/NAME.png in the output folder, 0 and 255, at each image's own size.

    python code/predict.py --checkpoint checkpoints/sam_cad.pth --input photos --output results --overlay
    python code/predict.py --checkpoint checkpoints/sam_cad.pth --input 'photos/*/*.jpg' --output results \
        --probabilities --coco results.json
    python code/predict.py --checkpoint checkpoints/sam_cad.pth --input map.tif --output results --tile 1024

Folders inside folders are kept. Run again, it goes on where it stopped. Exit code 1: some files could not be read; they
are named at the end, and all others have their results.
"""

import sys
from collections.abc import Sequence

from cad.errors import run_script
from cad.prediction.options import prediction_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = prediction_parser("predict.py", __doc__).parse_args(argv)
    complete = False

    def body() -> None:
        nonlocal complete
        from cad.prediction.folder import predict_folder  # imports torch: not before the flags are right

        complete = predict_folder(args)

    return run_script(body) or int(not complete)


if __name__ == "__main__":
    sys.exit(main())
