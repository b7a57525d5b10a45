"""The flags of app.py."""

import argparse

from cad.options import OneLineParser, add_base_weights, add_machine_flags, user_path


def port_number(text: str) -> int:
    """A port that a program may listen on."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, found {text!r}")
    return int(text)


def page_parser(prog: str, description: str) -> OneLineParser:
    """The flags of app.py."""
    parser = OneLineParser(prog=prog, description=description)
    parser.add_argument(
        "--checkpoint",
        type=user_path,
        nargs="+",
        metavar="FILE",
        help="trained weights, or exported .onnx; the first two are compared (default: what is in checkpoints/)",
    )
    add_base_weights(parser)
    parser.add_argument(
        "--port", type=port_number, default=7860, metavar="N", help="where on 127.0.0.1 (default: %(default)s)"
    )
    add_machine_flags(parser)
    return parser
