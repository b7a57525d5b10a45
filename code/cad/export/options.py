"""The flags of export_onnx.py and merge.py."""

from cad.options import OneLineParser, add_base_weights, add_trained_method, user_path


def export_parser(prog: str, description: str) -> OneLineParser:
    """The flags of export_onnx.py."""
    parser = _parser(prog, description, output="the ONNX file to write; must not exist")
    add_trained_method(parser)
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
    parser = OneLineParser(prog=prog, description=description)
    parser.add_argument("--checkpoint", type=user_path, required=True, metavar="FILE", help="trained weights")
    parser.add_argument("--output", type=user_path, required=True, metavar="FILE", help=output)
    add_base_weights(parser)
    return parser
