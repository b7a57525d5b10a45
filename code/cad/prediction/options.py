"""The flags of predict.py."""

import argparse
import os

from cad.options import (
    OneLineParser,
    add_base_weights,
    add_machine_flags,
    add_trained_method,
    count,
    positive_int,
    probability,
    user_path,
)

SMALLEST_TILE = 32  # pixels


def tile_side(text: str) -> int:
    """A whole number of pixels, not so small that there are millions of tiles."""
    value = positive_int(text)
    if value < SMALLEST_TILE:
        raise argparse.ArgumentTypeError(f"expected at least {SMALLEST_TILE} pixels, found {text!r}")
    return value


def prediction_parser(prog: str, description: str) -> OneLineParser:
    """The flags of predict.py."""
    parser = OneLineParser(prog=prog, description=description)
    model = parser.add_argument_group("model")
    model.add_argument(
        "--checkpoint", type=user_path, required=True, metavar="FILE", help="trained weights, or an exported .onnx"
    )
    add_base_weights(model)
    add_trained_method(model)
    _add_prediction_flags(parser.add_argument_group("prediction"))
    files = parser.add_argument_group("images and results")
    files.add_argument(
        "--input",
        type=user_path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="images: files, folders with all that are in them, or patterns such as 'photos/*/*.jpg'",
    )
    files.add_argument(
        "--output", type=user_path, required=True, metavar="DIR", help="where results go: masks/, and what is asked for"
    )
    files.add_argument("--overlay", action="store_true", help="overlays/: the masks shown on the images (JPEG)")
    files.add_argument(
        "--probabilities", action="store_true", help="probabilities/: the probability of foreground, 0..255 for 0..1"
    )
    files.add_argument(
        "--coco", type=user_path, metavar="FILE", help="write all masks as COCO annotations: outlines, RLE, box, score"
    )
    files.add_argument(
        "--overwrite", action="store_true", help="predict again what is there (default: go on where a run stopped)"
    )
    running = parser.add_argument_group("running")
    running.add_argument(
        "--batch_size", type=positive_int, default=4, metavar="N", help="images or tiles at once (default: 4)"
    )
    running.add_argument(
        "--num_workers",
        type=count,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="threads that read images, and as many that write results; 0 reads in the main one (default: %(default)s)",
    )
    add_machine_flags(running)
    return parser


def _add_prediction_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--threshold",
        type=probability,
        default=0.5,
        metavar="P",
        help="probabilities above it are foreground (default: %(default)s)",
    )
    group.add_argument(
        "--tile",
        type=tile_side,
        metavar="PIXELS",
        help="predict larger images in square tiles of this side, for details that the whole, resized to the size of "
        "training, would lose (default: every image as a whole)",
    )
    group.add_argument(
        "--overlap",
        type=count,
        metavar="PIXELS",
        help="how far neighbouring tiles overlap; they are blended there (default: an eighth of the tile)",
    )
    group.add_argument(
        "--flip_average", action="store_true", help="average with the prediction of the mirror image; twice the time"
    )
