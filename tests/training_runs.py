"""Tiny training runs for tests: flags of a run on small pairs, and its log."""

import json

from cad.trained_weights import read_weights
from cad.training.options import resolve_training, training_parser

TINY = ("--model_type", "vit_demo", "--image_size", "32", "--num_workers", "0", "--wandb", "disabled")


def resolved(folders, output, *flags):
    """The resolved flags of two epochs on (image folder, mask folder)."""
    data = ["--train_image_dir", str(folders[0]), "--train_mask_dir", str(folders[1]), "--output_dir", str(output)]
    parser = training_parser("run_cad.py", "")
    return resolve_training(parser.parse_args([*data, *TINY, "--batch_size", "2", "--epoch", "2", *flags]))


def log_of(output):
    """The records of the only run below `output`."""
    (file,) = (output / "runs").glob("*/log.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def result_of(output, name="*"):
    """What must be the same whatever happened on the way: weights, their metrics, the log and the summary.

    Args:
        name: of the run; of all runs below `output`, only one is finished.
    """
    (log,) = [file for file in output.glob(f"runs/{name}/log.jsonl") if (file.parent / "summary.json").exists()]
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for record in records:
        del record["seconds"]
    weights = read_weights(output / "checkpoints" / f"{log.parent.name}.pth")
    state = {name: tensor.numpy().tobytes() for name, tensor in weights.state.items()}
    summary = json.loads((log.parent / "summary.json").read_text())
    left = [*output.rglob("*.tmp"), *output.rglob("resume.pth")]
    assert left == []
    return records, state, weights.metadata["metrics"], summary["metrics"]
