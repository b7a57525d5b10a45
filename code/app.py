"""Open a page on this machine to try trained weights on images: overlay, mask, probability, a threshold to move.

    pip install gradio
    python code/app.py --checkpoint checkpoints/sam_cad.pth
    python code/app.py --checkpoint checkpoints/sam_cad.pth checkpoints/sam_sa.pth --port 7861

Two files are shown side by side. All weights in checkpoints/ can be chosen too. It listens on 127.0.0.1 alone and sends
nothing anywhere.
"""

import sys
from collections.abc import Sequence

from cad.app.options import page_parser
from cad.errors import run_script


def main(argv: Sequence[str] | None = None) -> int:
    args = page_parser("app.py", __doc__).parse_args(argv)

    def body() -> None:
        from cad.app.page import serve  # imports torch: not before the flags are right

        serve(args)

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
