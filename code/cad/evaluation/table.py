"""The table that run.sh and eval.sh print: one row a method."""

from typing import Any

COLUMNS = ("method", "Dice", "IoU", "BCE", "IoU loss", "trained parameters", "s/epoch", "weights")


def table_row(metadata: dict[str, Any], scores: dict[str, float], weights: str) -> tuple[str, ...]:
    """One row: the scores are means over images; parameters and seconds are those of the weights' metadata."""
    trained, seconds = metadata.get("trainable_parameters"), metadata.get("seconds_per_epoch")
    return (
        metadata["method"],
        *(f"{scores[name]:.4f}" for name in ("dice", "iou", "bce", "iou_loss")),
        f"{trained:,}" if trained else "unknown",
        f"{seconds:.1f}" if seconds else "unknown",
        weights,
    )


def format_table(rows: list[tuple[str, ...]], columns: tuple[str, ...] = COLUMNS) -> str:
    """Plain text, columns aligned: words to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    left = {0, len(columns) - 1}

    def line(row: tuple[str, ...]) -> str:
        cells = (
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([line(columns), "  ".join("-" * width for width in widths), *map(line, rows)])
