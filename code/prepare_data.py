"""Lay out a published data set as {train,test}/{image,mask} folders, by links to the download or copies of it.

    python code/prepare_data.py --dataset cod10k --from_dir COD10K-v3 --to_dir data/cod --split train
    python code/prepare_data.py --dataset camo --from_dir CAMO-V.1.0-CVIU2019 --to_dir data/cod --split train
    python code/prepare_data.py --dataset coco --from_dir val2017 --to_dir data/coco --annotations instances.json

Where the data sets come from, and what each looks like: docs/DATASETS.md. Files that are there are never replaced.
"""

import sys
from collections.abc import Sequence

from cad.datasets.coco import prepare_coco
from cad.datasets.published import DATASETS, SPLITS, prepare_published
from cad.errors import UserError, run_script
from cad.options import OneLineParser, user_path


def build_parser() -> OneLineParser:
    parser = OneLineParser(prog="prepare_data.py", description=__doc__)
    add = parser.add_argument
    add("--dataset", required=True, choices=(*DATASETS, "coco"), help="which data set it is")
    add("--from_dir", required=True, type=user_path, metavar="DIR", help="the unpacked download; of COCO, the images")
    add("--to_dir", required=True, type=user_path, metavar="DIR", help="where {train,test}/{image,mask} go")
    add(
        "--split",
        choices=(*SPLITS, "all"),
        default="all",
        help="what to lay out; all: what the download holds, of COCO train (default: %(default)s)",
    )
    add("--copy", action="store_true", help="copy the files instead of linking to them")
    add("--annotations", type=user_path, metavar="FILE", help="coco: the instance annotations of the images")
    add("--categories", nargs="+", metavar="NAME", help="coco: the categories that are foreground (default: all)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)

    def body() -> None:
        if args.dataset == "coco":
            if args.annotations is None:
                raise UserError("--dataset coco: --annotations is missing: the JSON file of the images' instances")
            split = "train" if args.split == "all" else args.split
            prepare_coco(args.from_dir, args.to_dir, args.annotations, split, args.categories, args.copy)
            return
        for flag in ("annotations", "categories"):
            if getattr(args, flag) is not None:
                raise UserError(f"--{flag} belongs to --dataset coco, not to {args.dataset}")
        prepare_published(args.from_dir, args.to_dir, args.dataset, args.split, args.copy)

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
