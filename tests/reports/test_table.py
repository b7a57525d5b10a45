from cad.reports.table import format_table, table_row

SCORES = {"dice": 0.5, "iou": 1 / 3, "bce": 0.25, "iou_loss": 0.75}


def test_rows_are_aligned_and_rounded():
    rows = [
        table_row("cad", {"trainable_parameters": 5280000, "seconds_per_epoch": 1.25}, SCORES, "a.pth"),
        table_row("sam_adapter", {}, SCORES, "b.pth"),
    ]
    lines = format_table(rows).splitlines()
    assert lines[0].split() == [
        "method",
        "Dice",
        "IoU",
        "BCE",
        "IoU",
        "loss",
        "trained",
        "parameters",
        "s/epoch",
        "weights",
    ]
    assert lines[2].split() == ["cad", "0.5000", "0.3333", "0.2500", "0.7500", "5,280,000", "1.2", "a.pth"]
    assert lines[3].split() == ["sam_adapter", "0.5000", "0.3333", "0.2500", "0.7500", "unknown", "unknown", "b.pth"]
    assert lines[2].index("0.5000") == lines[3].index("0.5000")
