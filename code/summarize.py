"""Print the table of the newest finished run of each method.

python code/summarize.py
"""

import json
import sys
from collections.abc import Sequence

from cad.errors import UserError, run_script
from cad.evaluation.table import format_table, table_row
from cad.options import OneLineParser, add_output_dir


def main(argv: Sequence[str] | None = None) -> int:
    parser = OneLineParser(prog="summarize.py", description=__doc__.splitlines()[0])
    add_output_dir(parser)
    args = parser.parse_args(argv)

    def body() -> None:
        newest: dict[str, dict] = {}
        for file in sorted((args.output_dir / "runs").glob("*/summary.json"), key=lambda path: path.stat().st_mtime):
            summary = json.loads(file.read_text())
            newest[summary["method"]] = summary
        if not newest:
            raise UserError(f"{args.output_dir / 'runs'}: no finished run; train first with ./run.sh")
        rows = [
            table_row(run["method"], run, run["metrics"], run.get("published", run["weights"]))
            for run in newest.values()
        ]
        print(f"means over {' and '.join(sorted({run['metrics']['on'] for run in newest.values()}))} images")
        print(format_table(rows))

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
