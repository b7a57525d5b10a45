"""Score several trained weights on one test set: what evaluate.py does."""

import argparse
import sys
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from cad.datasets.demo import DEMO_TASKS, prepare_demo
from cad.datasets.pairs import Pair, check_pairs, find_pairs
from cad.datasets.views import ViewDataset, ViewSampler
from cad.device import pick_device
from cad.errors import UserError
from cad.evaluation.metrics import evaluate, mean_metrics
from cad.evaluation.table import format_table, table_row
from cad.models.segmenter import count_parameters
from cad.models.weights import TrainedWeights, load_segmenter, read_weights


def compare(args: argparse.Namespace) -> dict[Path, dict[str, float]]:
    """Evaluate every checkpoint of the flags, print the table, and return the mean metrics by checkpoint.

    Raises:
        UserError: bad checkpoints, folders or flags; before anything is computed.
    """
    device = pick_device(args.device)
    trained = [read_weights(path) for path in args.checkpoint]
    for weights in trained:
        if args.model_type not in (None, weights.metadata["model_type"]):
            raise UserError(
                f"{weights.path}: holds {weights.metadata['model_type']}, not --model_type {args.model_type}"
            )
    pairs = find_test_pairs(args, trained)
    check_pairs(pairs)

    scores, rows = {}, []
    for weights in trained:
        segmenter, metadata = load_segmenter(weights.path, args.output_dir / "checkpoints", args.sam_checkpoint)
        # A file of the original's code does not say how many parameters it trained; the model does.
        metadata = {"trainable_parameters": count_parameters(segmenter)[0], **metadata}
        sampler = ViewSampler(len(pairs), args.seed, shuffle=False)
        batches: DataLoader[dict[str, Any]] = DataLoader(
            ViewDataset(pairs, metadata["image_size"], args.seed),
            batch_size=args.batch_size,
            sampler=sampler,  # gives (index, view) pairs
            num_workers=args.num_workers,
        )
        progress = tqdm(batches, desc=f"evaluating {weights.path.name}", leave=False, disable=None)
        scores[weights.path] = mean_metrics(evaluate(segmenter.to(device), progress, device))
        rows.append(table_row(metadata, scores[weights.path], str(weights.path)))
    sizes = sorted({weights.metadata["image_size"] for weights in trained})
    print(f"{len(pairs)} test images, scored at {' and '.join(map(str, sizes))} pixels, means over images")
    print(format_table(rows))
    return scores


def find_test_pairs(args: argparse.Namespace, trained: list[TrainedWeights]) -> list[Pair]:
    """The pairs of --test_image_dir and --test_mask_dir, or of the demo when all weights are a demo's."""
    if args.test_image_dir and args.test_mask_dir:
        return find_pairs(args.test_image_dir, args.test_mask_dir, args.skip_unpaired, "test")
    if args.test_image_dir or args.test_mask_dir:
        missing = "--test_mask_dir" if args.test_image_dir else "--test_image_dir"
        raise UserError(f"{missing} is not set: the folders of test images and of their masks belong together")
    tasks = {str(weights.metadata.get("demo_task")) for weights in trained}
    if len(tasks) > 1 or not tasks <= set(DEMO_TASKS):
        raise UserError(
            "--test_image_dir and --test_mask_dir are not set, and not all of these weights are of one built-in demo: "
            "pass a folder of test images and a folder of their masks"
        )
    folder = prepare_demo(args.output_dir / "runs" / "demo", tasks.pop())
    print(
        f"demo: synthetic images in {folder}; the numbers show that the software works, not that the method does",
        file=sys.stderr,
    )
    return find_pairs(folder / "test" / "image", folder / "test" / "mask")
