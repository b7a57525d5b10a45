"""The flags of evaluate.py."""

import argparse

from cad.options import (
    METHODS,
    OneLineParser,
    add_machine_flags,
    add_model_type,
    add_output_dir,
    add_reading_flags,
    count,
    positive_int,
    user_path,
)


def metric_size(text: str) -> int | str:
    """A whole number of pixels, or the word original."""
    return text if text == "original" else positive_int(text)


def evaluation_parser(prog: str, description: str) -> OneLineParser:
    """The flags of evaluate.py."""
    parser = OneLineParser(prog=prog, description=description)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--test_image_dir",
        type=user_path,
        metavar="DIR",
        help="folder of test images (default: the demo's, for demo weights)",
    )
    data.add_argument("--test_mask_dir", type=user_path, metavar="DIR", help="folder of their masks")
    add_reading_flags(data)
    _add_model_flags(parser.add_argument_group("model"))
    _add_protocol_flags(parser.add_argument_group("protocol"))
    running = parser.add_argument_group("running")
    running.add_argument("--batch_size", type=positive_int, default=4, metavar="N", help="images at once (default: 4)")
    running.add_argument(
        "--seed", type=count, default=21, metavar="N", help="seed of the bootstrap intervals (default: 21)"
    )
    add_machine_flags(running)
    output = parser.add_argument_group("output")
    add_output_dir(output)
    output.add_argument(
        "--save_masks",
        action="store_true",
        help="keep predicted masks and probability maps as PNG files in the folder of the evaluation",
    )
    return parser


def _add_model_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--checkpoint",
        type=user_path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="trained weights, one or more files; each knows its method, sizes and SAM weights",
    )
    group.add_argument(
        "--method",
        nargs="+",
        choices=METHODS,
        help="zero_shot: score SAM as it is too, prompted with a box over the whole image; another: what the "
        "checkpoints must hold, which a whole SAM saved by the original's code after training the decoder cannot say",
    )
    group.add_argument(
        "--sam_checkpoint",
        type=user_path,
        metavar="FILE",
        help="the SAM weights that checkpoints were trained on and zero_shot uses, or for zero_shot the word random "
        "(default: the file that each checkpoint names, beside it or in checkpoints/)",
    )
    add_model_type(group, note="checkpoints know theirs and are only checked; zero_shot: default vit_b")


def _add_protocol_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--metric_size",
        type=metric_size,
        metavar="{PIXELS,original}",
        help="side at which maps and masks are compared, or original: each mask's own size "
        "(default: the image size of the weights, 512 unless trained otherwise; 512 if they differ)",
    )
    group.add_argument(
        "--mask_threshold",
        choices=("nonzero", "128"),
        default="nonzero",
        help="which mask pixels are foreground: any that is not zero (in lossy files above 127), or grey values of at "
        "least 128, as in published protocols (default: %(default)s)",
    )
    group.add_argument(
        "--normalize_maps",
        action="store_true",
        help="stretch every map to 0..1 before S, E, F and MAE, as the MATLAB toolbox of the papers does",
    )
