"""Download SAM's official weights into checkpoints/, and verify them: 375 MB (vit_b), 1.2 GB (vit_l) or 2.6 GB (vit_h).

python code/download_sam.py --model_type vit_b
python code/download_sam.py --model_type vit_b --url https://mirror.example.org/weights.pth --sha256 ec2df627...

After an interruption the same command goes on where it was. With the SHA-256 of the official file, a file from --url
gets the official name; any other keeps its own.
"""

import argparse
import re
import sys
from collections.abc import Sequence

from cad.errors import run_script
from cad.options import SAM_TYPES, OneLineParser, add_output_dir


def sha256_digits(text: str) -> str:
    """A SHA-256 as 64 hexadecimal digits."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"expected 64 hexadecimal digits, found {text!r}")
    return text.lower()


def build_parser() -> OneLineParser:
    parser = OneLineParser(prog="download_sam.py", description=__doc__)
    published = [model_type for model_type in SAM_TYPES if model_type != "vit_demo"]
    parser.add_argument("--model_type", required=True, choices=published, help="size of SAM")
    parser.add_argument("--url", metavar="URL", help="another address, http or https, such as a mirror's")
    parser.add_argument(
        "--sha256", type=sha256_digits, metavar="DIGITS", help="SHA-256 of the file at --url (official ones are known)"
    )
    add_output_dir(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)

    def body() -> None:
        from cad.encoders.download import download_sam  # imports torch: not before the flags are right

        download_sam(args.model_type, args.output_dir / "checkpoints", args.url, args.sha256)

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
