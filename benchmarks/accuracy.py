r"""Accuracy of several methods on one data set, each trained with several seeds, beside the memory that training takes.

python benchmarks/accuracy.py --train_image_dir train/image --train_mask_dir train/mask \
    --test_image_dir test/image --test_mask_dir test/mask --output_dir accuracy --quick     # a first look
python benchmarks/accuracy.py ... --output_dir accuracy --seeds 3 --epochs 8 --methods decoder cad
python benchmarks/accuracy.py --test_image_dir test/image --test_mask_dir test/mask --output_dir accuracy \
    --from_weights cad=a.pth,b.pth,c.pth decoder=d.pth,e.pth,f.pth                       # trained earlier
python benchmarks/accuracy.py ... --output_dir accuracy --model_type vit_demo --methods cad sam_adapter zero_shot

Trains on all training images and keeps the last epoch, as the original: nothing is chosen on a few of them.
Writes table.md, metrics.json and figure.png to the output folder. Every number is the mean over the seeds; in brackets
is its 95 % bootstrap interval over test images, behind it the standard deviation over seeds; differences are paired by
image (see code/cad/metrics/seeds.py). Memory is predicted (code/memory.py). A run that is finished in the output
folder is not trained again, and one that was cut off is resumed: the same command goes on.
The last line is JSON, and says where metrics.json is.
"""

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import torch
from accuracy_report import Found, write_report
from accuracy_training import CONFIGURATIONS, Folders, part_of, trained_weights

from cad.datasets.pairs import Pair, check_pairs, find_pairs
from cad.device import pick_device
from cad.encoders.sam import hash_file, read_weights_file
from cad.errors import run_script
from cad.evaluation.compared import Compared, find_compared
from cad.evaluation.comparison import choose_protocol, describe_protocol, find_test_pairs
from cad.evaluation.kept_maps import KeptMaps
from cad.evaluation.options import evaluation_parser
from cad.evaluation.scoring import Machine, Protocol, score_method
from cad.evaluation.scoring_pool import ScoringPool
from cad.files import write_atomically
from cad.metrics.intervals import Scores
from cad.options import (
    METHODS_INSIDE_SAM,
    MODEL_TYPES,
    PACKAGED_TYPES,
    OneLineParser,
    add_machine_flags,
    add_reading_flags,
    count,
    multiple_of_8,
    positive_float,
    positive_int,
    user_path,
)
from cad.trained_weights import read_weights
from cad.training.resume import fingerprint

FULL = {"seeds": 3, "epochs": 8, "train_images": None, "test_images": None}
QUICK = {"seeds": 2, "epochs": 4, "train_images": 96, "test_images": 48}
FIRST_SEED = 21  # the default of training


@dataclass(frozen=True)
class Weights:
    """Trained weights of a configuration. `path` is None for zero_shot; `number` tells seeds apart in file names."""

    configuration: str
    number: int
    path: Path | None


def read_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags, with what --quick means filled in."""
    parser = OneLineParser(description=__doc__)
    for part in ("train", "test"):
        parser.add_argument(f"--{part}_image_dir", type=user_path, metavar="DIR", required=part == "test")
        parser.add_argument(f"--{part}_mask_dir", type=user_path, metavar="DIR", required=part == "test")
    parser.add_argument("--output_dir", type=user_path, metavar="DIR", required=True)
    parser.add_argument("--methods", nargs="+", choices=(*CONFIGURATIONS, "zero_shot"), default=[])
    parser.add_argument(
        "--from_weights", nargs="+", type=named_weights, default=[], metavar="NAME=FILE,FILE", help="trained earlier"
    )
    parser.add_argument("--model_type", choices=MODEL_TYPES, default="efficientnet_lite0")
    parser.add_argument("--checkpoint", metavar="FILE", help="SAM's weights, as of training")
    parser.add_argument("--image_size", type=multiple_of_8, metavar="PIXELS", help="as of training")
    parser.add_argument("--seeds", type=positive_int, metavar="N", help=f"trainings of each (default: {FULL['seeds']})")
    parser.add_argument("--epochs", type=positive_int, metavar="N", help=f"of each (default: {FULL['epochs']})")
    some = "so many, evenly spread over the names (default: all)"
    parser.add_argument("--train_images", type=positive_int, metavar="N", help=some)
    parser.add_argument("--test_images", type=positive_int, metavar="N", help=some)
    parser.add_argument("--views", type=count, metavar="N", help="as of training")
    parser.add_argument("--lr", type=positive_float, help="as of training")
    parser.add_argument("--quick", action="store_true", help=f"a first look within 10 minutes on two cores: {QUICK}")
    add_reading_flags(parser.add_argument_group("reading"))
    add_machine_flags(parser.add_argument_group("running"))
    args = parser.parse_args(argv)
    for name, value in (QUICK if args.quick else FULL).items():
        setattr(args, name, getattr(args, name) or value)
    if not args.methods and not args.from_weights:
        args.methods = ["decoder", "cad", "cad_hires_relative"]
    named = Counter([*args.methods, *(name for name, _ in args.from_weights)])
    if twice := [name for name, times in named.items() if times > 1]:
        parser.error(f"{' '.join(twice)}: named twice; give weights trained earlier a name of their own")
    if args.model_type in PACKAGED_TYPES and (wrong := set(METHODS_INSIDE_SAM) & set(args.methods)):
        parser.error(f"--methods {' '.join(sorted(wrong))}: need SAM's own encoder, not {args.model_type}")
    if set(args.methods) - {"zero_shot"} and not (args.train_image_dir and args.train_mask_dir):
        parser.error("training needs --train_image_dir and --train_mask_dir")
    return args


def named_weights(text: str) -> tuple[str, list[Path]]:
    """`NAME=A.pth,B.pth` -> (NAME, paths)."""
    name, _, paths = text.partition("=")
    if not re.fullmatch(r"[\w-]+", name) or not all(paths.split(",")):
        raise argparse.ArgumentTypeError(f"expected NAME=FILE,FILE,... with a name of letters, found {text!r}")
    return name, [user_path(path) for path in paths.split(",")]


def main() -> None:
    args = read_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    # Everything that scoring needs is looked at before the trainings, not hours later.
    test = part_of(
        (args.test_image_dir, args.test_mask_dir), args.test_images, args.output_dir, "test", args.skip_unpaired
    )
    check_pairs(find_pairs(*test, flags="test"))
    for _, paths in args.from_weights:
        for path in paths:
            read_weights(path)
    weights = train_all([name for name in args.methods if name != "zero_shot"], args) + [
        Weights(name, number, path) for name, paths in args.from_weights for number, path in enumerate(paths)
    ]
    if "zero_shot" in args.methods:
        weights.append(Weights("zero_shot", 0, None))
    scored, protocol = score(weights, test, args)
    write_report(args.output_dir, scored, protocol)
    print((args.output_dir / "table.md").read_text())
    print(json.dumps({"benchmark": "accuracy", "metrics": str(args.output_dir / "metrics.json")}))


def train_all(names: list[str], args: argparse.Namespace) -> list[Weights]:
    """Train every configuration with every seed, unless that is done."""
    if not names:
        return []
    train = part_of(
        (args.train_image_dir, args.train_mask_dir), args.train_images, args.output_dir, "train", args.skip_unpaired
    )
    data = fingerprint(find_pairs(*train), [])["sha256"]
    # Seeds outside, since the configurations of a seed share its views and so the cached embeddings.
    return [
        Weights(name, seed, trained_weights(args, train, data, name, seed))
        for seed in range(FIRST_SEED, FIRST_SEED + args.seeds)
        for name in names
    ]


def score(
    weights: list[Weights], test: Folders, args: argparse.Namespace
) -> tuple[dict[str, list[Found]], dict[str, Any]]:
    """Score all weights on the test set by the same protocol: by configuration, and the protocol in plain values."""
    flags = ["--test_image_dir", str(test[0]), "--test_mask_dir", str(test[1]), "--num_workers", str(args.num_workers)]
    paths = [str(one.path) for one in weights if one.path]
    flags += ["--checkpoint", *paths] if paths else ["--model_type", args.model_type]
    flags += ["--method", "zero_shot"] if len(paths) < len(weights) else []
    flags += ["--sam_checkpoint", args.checkpoint] if args.checkpoint else []
    of_evaluation = evaluation_parser("accuracy.py", "").parse_args([*flags, "--device", args.device])
    compared = find_compared(of_evaluation)
    pairs = find_test_pairs(of_evaluation, compared)
    protocol = choose_protocol(of_evaluation, compared)
    data = fingerprint(pairs, [])["sha256"]
    scored: dict[str, list[Found]] = {}
    with ScoringPool(args.num_workers) as pool:
        machine = Machine(pick_device(args.device), of_evaluation.batch_size, args.num_workers, pool)
        for one, method in zip(weights, compared, strict=True):
            file = args.output_dir / "scores" / f"{one.configuration}-{one.number}.pth"
            scores = kept_scores(file, method, pairs, data, protocol, machine)
            scored.setdefault(one.configuration, []).append(Found(method, scores))
    return scored, describe_protocol(protocol, pairs, compared, of_evaluation)


def kept_scores(
    file: Path, method: Compared, pairs: list[Pair], data: str, protocol: Protocol, machine: Machine
) -> Scores:
    """The scores in the file, or, where there are none of these weights, files and protocol, new ones, kept there."""
    of_weights = method.metadata["base"] if method.method == "zero_shot" else hash_file(Path(method.weights))
    about = json.dumps({"weights": of_weights, "data": data, "protocol": vars(protocol)})
    if file.is_file():
        kept = read_weights_file(file)
        if kept["about"] == about:
            values = {name: tensor.numpy() for name, tensor in kept["values"].items()}
            return Scores(values, kept["e_curves"].numpy(), kept["counts"].numpy())
    with tempfile.TemporaryDirectory() as folder:
        maps = KeptMaps(Path(folder), save_masks=False)
        segmenter = method.load().to(machine.device)
        scores = score_method(segmenter, method.label, method.metadata["image_size"], pairs, protocol, machine, maps)
    content = {
        "about": about,
        "values": {name: torch.from_numpy(values) for name, values in scores.values.items()},
        "e_curves": torch.from_numpy(scores.e_curves),
        "counts": torch.from_numpy(scores.counts),
    }
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, lambda opened: torch.save(content, opened))
    return scores


if __name__ == "__main__":
    sys.exit(run_script(main))
