"""Print the table of the newest finished run of each method.

python code/summarize.py
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cad.errors import UserError, run_script
from cad.options import OneLineParser, add_output_dir
from cad.reports.table import format_table, table_row


def main(argv: Sequence[str] | None = None) -> int:
    parser = OneLineParser(prog="summarize.py", description=__doc__.splitlines()[0])
    add_output_dir(parser)
    parser.add_argument(
        "--since", type=float, default=0, metavar="SECONDS", help="only runs finished after this Unix time"
    )
    args, _ = parser.parse_known_args(argv)  # run.sh hands on the flags that it was given, of which one matters here

    def body() -> None:
        newest = newest_runs(args.output_dir / "runs", args.since)
        if not newest:
            raise UserError(f"{args.output_dir / 'runs'}: no finished run; train first with ./run.sh")
        rows = [
            table_row(run.get("adapter", run["method"]), run, run["metrics"], run.get("published", run["weights"]))
            for run in newest.values()
        ]
        scored_on = " and ".join(sorted({run["metrics"]["on"] for run in newest.values()}))
        demo = "; of a demo: the software works, the numbers say nothing else" if newest_is_demo(newest) else ""
        print(f"means over {scored_on} images{demo}")
        print(format_table(rows))
        if all("published" in run for run in newest.values()):
            folders = "" if newest_is_demo(newest) else "TEST_IMAGE_DIR=... TEST_MASK_DIR=... "
            print(f"Next: {folders}./eval.sh scores them on the test set.")

    return run_script(body)


def newest_runs(folder: Path, since: float) -> dict[str, dict[str, Any]]:
    """The summary of the newest finished run of each method, by method; damaged summaries are passed over."""
    newest: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*/summary.json"), key=lambda path: path.stat().st_mtime):
        if file.stat().st_mtime >= since:
            try:
                summary = json.loads(file.read_text())
            except ValueError:
                print(f"warning: {file}: damaged, passed over", file=sys.stderr)
                continue
            newest[summary["method"]] = summary
    return newest


def newest_is_demo(newest: dict[str, dict[str, Any]]) -> bool:
    return any(run["demo"] for run in newest.values())


if __name__ == "__main__":
    sys.exit(main())
