"""Write a SAM whose mask decoder was trained as a whole SAM file, which segment_anything loads unchanged.

    python code/merge.py --checkpoint checkpoints/sam_decoder.pth --output sam_merged.pth
    python code/merge.py --checkpoint a.pth --output sam_merged.pth --sam_checkpoint sam_vit_b_01ec64.pth

Only for run_decoder.py: the adapters of CAD and SAM-Adapter have no place in such a file.
"""

import sys
from collections.abc import Sequence

from cad.errors import run_script
from cad.export.options import merge_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = merge_parser("merge.py", __doc__).parse_args(argv)

    def body() -> None:
        from cad.export.merged_sam import merge  # imports torch: not before the flags are right

        merge(args)

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
