"""What an evaluation compares: trained files and SAM zero-shot, each with a label, loaded when its turn comes."""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cad.encoders.sam import MODEL_SIZES, PACKAGED_SIZES, load_sam
from cad.errors import MissingPathError, UserError
from cad.options import sam_checkpoint_path
from cad.segmenter import Segmenter
from cad.trained_weights import TrainedWeights, find_base, load_segmenter, read_weights


@dataclass(frozen=True)
class Compared:
    """One method to score. `label` is unique and safe as a file name; `weights` says where the weights are from."""

    label: str
    method: str
    weights: str
    metadata: dict[str, Any]
    load: Callable[[], Segmenter]


def find_compared(args: argparse.Namespace) -> list[Compared]:
    """The methods that the flags name: every checkpoint, then SAM zero-shot if it is asked for.

    Raises:
        UserError: nothing to compare, or weights that are missing, damaged or not what the flags say.
    """
    asked = args.method or []
    of_checkpoints = [method for method in asked if method != "zero_shot"]
    if len(of_checkpoints) > 1:
        raise UserError(
            f"--method {' '.join(asked)}: says what the checkpoints hold, so only one beside zero_shot; evaluate files "
            "of different methods without it, or one after the other"
        )
    if not args.checkpoint and (of_checkpoints or not asked):
        raise UserError("no checkpoint: pass --checkpoint FILE [FILE ...], or --method zero_shot for SAM as it is")
    method = of_checkpoints[0] if of_checkpoints else None
    trained = [read_weights(path, method) for path in args.checkpoint]
    for weights in trained:
        if args.model_type not in (None, weights.metadata["model_type"]):
            raise UserError(
                f"{weights.path}: holds {weights.metadata['model_type']}, not --model_type {args.model_type}"
            )
        if not weights.whole_sam:
            find_base(weights, _checkpoints(args), args.sam_checkpoint)  # missing: said now, not after an hour
    # "adapter" tells CAD with a high-resolution path from CAD.
    methods = [weights.metadata.get("adapter", weights.metadata["method"]) for weights in trained]
    methods += ["zero_shot"] * ("zero_shot" in asked)
    labels = unique_labels(methods, [weights.path.stem for weights in trained] + ["zero_shot"])
    compared = [_trained(weights, label, args) for weights, label in zip(trained, labels, strict=False)]
    if "zero_shot" in asked:
        compared.append(_zero_shot(trained, labels[-1], args))
    return compared


def unique_labels(methods: list[str], stems: list[str]) -> list[str]:
    """A short unique name for each method: its own where there is one of it, else the stem of its file."""
    times, labels = Counter(methods), []
    for method, stem in zip(methods, stems, strict=False):
        base = method if times[method] == 1 else re.sub(r"[^\w-]+", "_", stem)
        label, number = base, 2
        while label in labels:
            label, number = f"{base}_{number}", number + 1
        labels.append(label)
    return labels


def _checkpoints(args: argparse.Namespace) -> Path:
    return args.output_dir / "checkpoints"


def _trained(weights: TrainedWeights, label: str, args: argparse.Namespace) -> Compared:
    method, path = weights.metadata["method"], weights.path

    def load() -> Segmenter:
        return load_segmenter(path, _checkpoints(args), args.sam_checkpoint, method)[0]

    return Compared(label, method, str(path), weights.metadata, load)


def _zero_shot(trained: list[TrainedWeights], label: str, args: argparse.Namespace) -> Compared:
    """SAM as it is: the SAM weights of the flags, else those that the first checkpoint was trained on."""
    first = trained[0] if trained else None
    model_type = args.model_type or (first.metadata["model_type"] if first else "vit_b")
    if model_type in PACKAGED_SIZES:
        raise UserError(f"--method zero_shot: {model_type} is no SAM, and its mask decoder knows nothing untrained")
    image_size = first.metadata["image_size"] if first else MODEL_SIZES[model_type].image_size
    source, seed = _zero_shot_base(first, model_type, args)
    if source == "random":
        print("warning: SAM's weights are random: zero-shot numbers say nothing about SAM", file=sys.stderr)
    name = f"random (seed {seed})" if source == "random" else str(source)
    metadata = {
        "method": "zero_shot",
        "model_type": model_type,
        "image_size": image_size,
        "base": {"source": Path(source).name, "seed": seed if source == "random" else None},
        "demo": bool(first and first.metadata.get("demo")),
        "trainable_parameters": 0,
    }

    def load() -> Segmenter:
        return Segmenter(load_sam(model_type, source, seed)[0], "zero_shot").eval()

    return Compared(label, "zero_shot", name, metadata, load)


def _zero_shot_base(first: TrainedWeights | None, model_type: str, args: argparse.Namespace) -> tuple[str | Path, int]:
    if str(args.sam_checkpoint) == "random":
        seed = first.metadata["base"]["seed"] if first else None
        return "random", args.seed if seed is None else int(seed)
    if args.sam_checkpoint is not None:
        if not args.sam_checkpoint.is_file():
            raise MissingPathError(f"--sam_checkpoint {args.sam_checkpoint}: no such file")
        return args.sam_checkpoint, 0
    if first is not None and not first.whole_sam:
        return find_base(first, _checkpoints(args), None)
    return sam_checkpoint_path(model_type, None, _checkpoints(args), flag="--sam_checkpoint"), args.seed
