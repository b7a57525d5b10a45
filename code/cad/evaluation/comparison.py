"""Score several methods on one test set, and write what was found: what evaluate.py does."""

import argparse
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from cad.adapters.adapter_design import AdapterDesign
from cad.datasets.demo import DEMO_TASKS, prepare_demo
from cad.datasets.pairs import Pair, check_pairs, find_pairs
from cad.device import pick_device
from cad.errors import UserError
from cad.evaluation.compared import Compared, find_compared
from cad.evaluation.kept_maps import EvaluationPictures, KeptMaps
from cad.evaluation.scoring import Machine, Protocol, score_method
from cad.evaluation.scoring_pool import ScoringPool
from cad.files import hide_home, read_json_lines, start_run_folder
from cad.metrics.field_metrics import BETA_SQUARED, BOUNDARY_SHARE, THRESHOLDS
from cad.metrics.intervals import LEVEL, RESAMPLES, Scores, compare_pairs, summarise
from cad.metrics.results import Evaluation, MethodResult
from cad.reports.figures import write_comparison
from cad.reports.outputs import write_files
from cad.reports.report import write_report
from cad.reports.table import FIELD_COLUMNS, field_row, format_table, protocol_line, table_row
from cad.segmenter import count_parameters
from cad.versions import installed_versions

MIXED_METRIC_SIZE = 512  # where the weights' image sizes differ: the original's


def compare(args: argparse.Namespace) -> Path:
    """Evaluate every method of the flags, print the tables, and return the folder of the results.

    Raises:
        UserError: bad checkpoints, folders or flags, before anything is computed; or weights that predict no numbers.
    """
    device = pick_device(args.device)
    compared = find_compared(args)
    pairs = find_test_pairs(args, compared)
    protocol = choose_protocol(args, compared)
    check_pairs(pairs, mask_threshold=protocol.mask_threshold)

    maps = KeptMaps(start_run_folder(args.output_dir, "-eval"), args.save_masks)
    try:
        with ScoringPool(args.num_workers) as pool:
            machine = Machine(device, args.batch_size, args.num_workers, pool)
            evaluation = evaluate_methods(compared, pairs, protocol, machine, maps, args)
        write_files(maps.folder, evaluation)
        pictures = pictures_of(maps, pairs, protocol)
        write_comparison(maps.folder / "comparison.png", evaluation, pictures)
        write_report(maps.folder / "report.html", evaluation, pictures, training_logs(compared, args.output_dir))
    finally:
        maps.finish()
        if not any(maps.folder.iterdir()):
            maps.folder.rmdir()  # nothing came of it
    print_tables(evaluation)
    print(f"results: {maps.folder}")
    return maps.folder


def pictures_of(maps: KeptMaps, pairs: list[Pair], protocol: Protocol) -> EvaluationPictures:
    """Images, truth and predictions of an evaluation, for figures; only until its maps are removed."""
    return EvaluationPictures(maps.folder, pairs, protocol.metric_size, protocol.mask_threshold)


def training_logs(compared: list[Compared], output_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """The logs of the training runs that are still beside their weights, by label."""
    logs = {}
    for one in compared:
        run = str(one.metadata.get("run", ""))
        if not re.fullmatch(r"\w{1,100}", run):  # a name, never a path: the weights may come from anywhere
            continue
        log = output_dir / "runs" / run / "log.jsonl"
        if log.is_file():
            try:
                logs[one.label] = read_json_lines(log)
            except ValueError:
                print(f"warning: {log}: damaged, its curves are left out", file=sys.stderr)
    return logs


def evaluate_methods(
    compared: list[Compared],
    pairs: list[Pair],
    protocol: Protocol,
    machine: Machine,
    maps: KeptMaps,
    args: argparse.Namespace,
) -> Evaluation:
    """Score one method after the other, then summarise all with intervals and paired differences."""
    scores: dict[str, Scores] = {}
    results = []
    for one in compared:
        segmenter = one.load().to(machine.device)
        # A file of the original's code does not say how many parameters it trained; the model does.
        metadata = {"trainable_parameters": count_parameters(segmenter)[0], **one.metadata}
        found = score_method(segmenter, one.label, metadata["image_size"], pairs, protocol, machine, maps)
        per_image = {
            name: [None if np.isnan(value) else value for value in values.tolist()]
            for name, values in found.values.items()
        }
        summary = summarise(found, args.seed)
        results.append(
            MethodResult(one.label, one.method, hide_home(one.weights), plain_metadata(metadata), summary, per_image)
        )
        scores[one.label] = found
    described = describe_protocol(protocol, pairs, compared, args)
    return Evaluation(described, [pair.name for pair in pairs], results, compare_pairs(scores, args.seed))


def choose_protocol(args: argparse.Namespace, compared: list[Compared]) -> Protocol:
    """The flags, with the metric size that they leave open: the weights' image size, and 512 where that differs."""
    sizes = sorted({one.metadata["image_size"] for one in compared})
    size = args.metric_size or (sizes[0] if len(sizes) == 1 else MIXED_METRIC_SIZE)
    if len(sizes) > 1 and args.metric_size is None:
        print(f"the weights' image sizes differ ({', '.join(map(str, sizes))}): all are compared at {size} pixels")
    return Protocol(
        metric_size=None if size == "original" else size,
        mask_threshold=None if args.mask_threshold == "nonzero" else int(args.mask_threshold),
        normalize_maps=args.normalize_maps,
    )


def describe_protocol(
    protocol: Protocol, pairs: list[Pair], compared: list[Compared], args: argparse.Namespace
) -> dict[str, Any]:
    """Everything that the numbers depend on beside the weights, as plain values."""
    return {
        "images": len(pairs),
        "image_dir": hide_home(pairs[0].image.parent),
        "mask_dir": hide_home(pairs[0].mask.parent),
        "metric_size": protocol.metric_size or "original",
        "mask_threshold": protocol.mask_threshold or "nonzero",
        "normalize_maps": protocol.normalize_maps,
        "prediction_threshold": "probability above 0.5, for Dice, IoU, BER and boundary IoU",
        "f_measure": f"mean over {THRESHOLDS} thresholds, beta^2 = {BETA_SQUARED}; weighted_f has beta^2 = 1",
        "ber": "in percent; pooled: pixel counts of all images; per image: error rates of the classes it has",
        "boundary_iou": f"within {100 * BOUNDARY_SHARE:g} % of the diagonal of the contour",
        "undefined": "an image for which a metric is undefined is left out of its mean",
        "interval": f"{100 * LEVEL:g} % percentile bootstrap over images; differences are paired by image",
        "resamples": RESAMPLES,
        "seed": args.seed,
        "demo": any(one.metadata.get("demo") for one in compared),
        "versions": installed_versions(),
    }


def plain_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """What of a weights file's metadata belongs in a report."""
    keys = ["method", *(field.name for field in fields(AdapterDesign)), "model_type", "image_size", "base", "demo"]
    keys += ["trainable_parameters", "seconds_per_epoch"]
    return {key: metadata[key] for key in keys if key in metadata}


def print_tables(evaluation: Evaluation) -> None:
    """The original's four numbers, then those of the field's papers."""
    print(protocol_line(evaluation.protocol))
    rows = [
        table_row(
            result.label,
            result.metadata,
            {name: estimate.value for name, estimate in result.summary.items()},
            result.weights,
        )
        for result in evaluation.methods
    ]
    print(format_table(rows))
    print()
    print(format_table([field_row(result) for result in evaluation.methods], FIELD_COLUMNS, words=(0,)))


def find_test_pairs(args: argparse.Namespace, compared: list[Compared]) -> list[Pair]:
    """The pairs of --test_image_dir and --test_mask_dir, or of the demo when all weights are a demo's."""
    if args.test_image_dir and args.test_mask_dir:
        return find_pairs(args.test_image_dir, args.test_mask_dir, args.skip_unpaired, "test")
    if args.test_image_dir or args.test_mask_dir:
        missing = "--test_mask_dir" if args.test_image_dir else "--test_image_dir"
        raise UserError(f"{missing} is not set: the folders of test images and of their masks belong together")
    tasks = {str(one.metadata.get("demo_task")) for one in compared if one.method != "zero_shot"}
    if len(tasks) != 1 or not tasks <= set(DEMO_TASKS):
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
