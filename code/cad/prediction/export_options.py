"""The flags of export_onnx.py and merge.py."""

import argparse

from cad.options import OneLineParser, user_path

TRAINED_METHODS = ("cad", "sam_adapter", "decoder")


def export_parser(prog: str, description: str) -> OneLineParser:
    """The flags of export_onnx.py."""
    parser = _parser(prog, description, output="the ONNX file to write; must not exist")
    parser.add_argument(
        "--method",
        choices=TRAINED_METHODS,
        help="what the trained weights must hold, which a whole SAM saved by the original's code after training the "
        "decoder cannot say",
    )
    parser.add_argument(
        "--images",
        type=user_path,
        metavar="DIR",
        help="compare onnxruntime with PyTorch on the first three images of this folder (default: textures and noise)",
    )
    return parser


def merge_parser(prog: str, description: str) -> OneLineParser:
    """The flags of merge.py."""
    return _parser(prog, description, output="the SAM file to write; must not exist")


def _parser(prog: str, description: str, output: str) -> OneLineParser:
    parser = OneLineParser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=user_path, required=True, metavar="FILE", help="trained weights")
    parser.add_argument("--output", type=user_path, required=True, metavar="FILE", help=output)
    parser.add_argument(
        "--sam_checkpoint",
        type=user_path,
        metavar="FILE",
        help="the SAM weights that they were trained on (default: the file that they name, beside them or in "
        "checkpoints/)",
    )
    return parser
