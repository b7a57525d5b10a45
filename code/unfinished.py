"""For run.sh: print which of its METHODS go on with an unfinished run, and, without --resume, that one could.

python code/unfinished.py --methods cad sa --resume auto
"""

import sys
from collections.abc import Sequence

from cad.errors import run_script
from cad.options import OneLineParser, add_output_dir
from cad.training.unfinished import unfinished_runs

METHODS = {"sam_adapter": "sa"}  # the names of run.sh, where they are others


def main(argv: Sequence[str] | None = None) -> int:
    parser = OneLineParser(prog="run.sh", add_help=False)
    parser.add_argument("--methods", nargs="*", default=[])
    parser.add_argument("--resume")
    add_output_dir(parser)
    args, _ = parser.parse_known_args(argv)  # run.sh hands on the flags that it was given, of which two matter here

    def body() -> None:
        if args.resume not in (None, "auto"):
            print(*args.methods)
            return
        runs = [(METHODS.get(run.method, run.method), run) for run in unfinished_runs(args.output_dir / "runs")]
        runs = [(method, run) for method, run in runs if method in args.methods]
        if args.resume:
            print(*dict.fromkeys(method for method, _ in runs))
        elif runs:
            method, run = runs[-1]
            left = " ".join(args.methods[args.methods.index(method) :])
            print(
                f"Unfinished: {run.method}, {run.epochs_done} of {run.epochs} epochs (runs/{run.folder.name}). "
                f'To go on: METHODS="{left}" ./run.sh --resume auto',
                file=sys.stderr,
            )

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
