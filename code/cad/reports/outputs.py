"""The files of an evaluation: metrics.json, per_image.csv, table.md and table.tex."""

import csv
import io
from pathlib import Path
from typing import Any

from cad.files import write_atomically, write_json
from cad.metrics.measures import PER_IMAGE
from cad.metrics.results import Difference, Estimate, Evaluation
from cad.reports.table import latex_table, markdown_table

PROTOCOL_COLUMNS = ("metric_size", "mask_threshold", "normalize_maps")


def write_files(folder: Path, evaluation: Evaluation) -> None:
    """Write all of them into the folder.

    Raises:
        UserError: the disk is full.
    """
    write_json(folder / "metrics.json", as_json(evaluation))
    for name, text in (
        ("per_image.csv", per_image_csv(evaluation)),
        ("table.md", markdown_table(evaluation)),
        ("table.tex", latex_table(evaluation)),
    ):
        # A file name that is not UTF-8 holds lone surrogates, which are written as \\udc80 and the like.
        content = text.encode(errors="backslashreplace")
        write_atomically(folder / name, lambda file, content=content: file.write(content))  # type: ignore[misc]


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Plain values: the protocol, each method's metrics by its label, and the differences of each pair of methods."""
    return {
        "protocol": evaluation.protocol,
        "methods": {
            result.label: {
                "method": result.method,
                "weights": result.weights,
                "metadata": result.metadata,
                "metrics": {name: plain_estimate(estimate) for name, estimate in result.summary.items()},
            }
            for result in evaluation.methods
        },
        "differences": [plain_difference(one) for one in evaluation.differences],
    }


def plain_difference(difference: Difference) -> dict[str, Any]:
    """One difference as plain values."""
    names = {"metric": difference.metric, "first": difference.first, "second": difference.second}
    spread = {} if difference.spread is None else {"spread": difference.spread}
    return names | plain_estimate(difference.estimate) | spread | {"verdict": difference.verdict}


def per_image_csv(evaluation: Evaluation) -> str:
    """One line an image and method; an empty cell is an undefined value. The protocol is in the last columns.

    Names stay as they are, so that they can be matched with files, even those that a spreadsheet would take for a
    formula, such as `=1+1`: import the columns `method` and `name` as text there.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "name", *PER_IMAGE, *PROTOCOL_COLUMNS])
    protocol = [evaluation.protocol[column] for column in PROTOCOL_COLUMNS]
    for result in evaluation.methods:
        for index, name in enumerate(evaluation.names):
            values = (result.per_image[metric][index] for metric in PER_IMAGE)
            cells = ("" if value is None else repr(value) for value in values)
            writer.writerow([result.label, name, *cells, *protocol])
    return text.getvalue()


def plain_estimate(estimate: Estimate) -> dict[str, Any]:
    """{"value", "ci"}; without the one or the other, null and the reason."""
    if estimate.value is None:
        return {"value": None, "reason": estimate.reason}
    if estimate.ci is None:
        return {"value": estimate.value, "ci": None, "reason": estimate.reason}
    return {"value": estimate.value, "ci": list(estimate.ci)}
