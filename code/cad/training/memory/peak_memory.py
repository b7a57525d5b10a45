"""The peak memory of a training run, predicted: will it fit, and what would make it fit.

The engine's own step runs on fake tensors, which have shapes and lifetimes but no values, while `LiveStorages` counts
what is alive. They are on the CPU: without a GPU, PyTorch gives fake CUDA tensors the attention kernel that stores the
whole matrix. So autocast follows the CPU's list of operators, and CUDA may keep a few more of them in float32.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from tqdm import tqdm

from cad.adapters.adapter_design import AdapterDesign
from cad.device import total_memory
from cad.encoders.feature_cache import CACHE_DTYPES
from cad.encoders.sam import MODEL_SIZES, build_empty
from cad.precision import autocast, gradient_scaler, halve_frozen_weights
from cad.reports.table import format_table
from cad.segmenter import Segmenter, count_parameters
from cad.training.engine import accumulate_gradients
from cad.training.memory.live_storages import LiveStorages
from cad.training.state import make_optimizer

MIB = 2**20
CPU = torch.device("cpu")
# What tensors do not tell: blocks that the allocator rounds up or cannot reuse and the workspaces of convolutions (in
# proportion), and CUDA's context with its loaded kernels (once). Assumed from common experience, not measured here.
MARGIN_SHARE = 0.15
MARGIN_MIB = 600
MARGIN_NOTE = (
    "Counted: tensors alive at once (weights, gradients, AdamW's state, inputs, activations). The margin for the\n"
    f"allocator, kernels and CUDA's context is {MARGIN_SHARE:.0%} and {MARGIN_MIB} MiB: assumed, not measured"
)
CARDS_GB = (4, 8, 12, 24, 48, 80)
TABLE_METHODS = (("cad", False), ("decoder", False), ("sam_adapter", False), ("sam_adapter", True))
TABLE_MODELS = ("vit_b", "vit_l", "vit_h")


@dataclass(frozen=True)
class PeakMemory:
    """Predicted peaks in MiB of tensors; `encode_mib` is None where there is no encoding ahead of training."""

    train_mib: float
    encode_mib: float | None
    trainable_parameters: int

    @property
    def card_mib(self) -> float:
        """What a card must have for a whole run, with the margin."""
        return max(self.train_mib, self.encode_mib or 0) * (1 + MARGIN_SHARE) + MARGIN_MIB


class ValuelessSegmenter(Segmenter):
    """A segmenter for fake images, which Pillow cannot resize: the result has no values but the right shape."""

    def encoder_inputs(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 3, self.encoder_size, self.encoder_size, dtype=torch.uint8)


def predict_peak(args: argparse.Namespace, method: str) -> PeakMemory:
    """Peak memory of encoding and of a training step, weights and optimiser state included; takes seconds.

    Args:
        args: flags of training that decide on memory (`cad.training.options.memory_parser`).
        method: one of `cad.segmenter.METHODS`.
    """
    # On the meta device until the weights are counted, as those of a run are on the CPU until they are halved.
    with torch.device("meta"):
        sam = build_empty(args.model_type)
        design = AdapterDesign.from_flags(args)
        segmenter = ValuelessSegmenter(sam, method, args.adapter_execution, args.grad_checkpointing, design)
    del sam
    halve_frozen_weights(segmenter.image_encoder, args.precision)
    encode_bytes = None
    with FakeTensorMode(allow_non_fake_inputs=True), LiveStorages() as storages:
        segmenter.to_empty(device="cpu")
        trainable, _ = count_parameters(segmenter)
        if segmenter.encoder_is_frozen:
            encode_bytes = _encoding_peak(segmenter, args, storages)
            if args.cache:
                segmenter.drop_encoder()
        train_bytes = _step_peak(segmenter, args, storages)
    return PeakMemory(train_bytes / MIB, None if encode_bytes is None else encode_bytes / MIB, trainable)


@torch.no_grad()
def _encoding_peak(segmenter: Segmenter, args: argparse.Namespace, storages: LiveStorages) -> int:
    storages.peak_bytes = storages.current_bytes
    side = segmenter.encoder_size
    inputs = torch.zeros(args.encode_batch_size, 3, side, side, dtype=torch.uint8)
    with autocast(args.precision, CPU):
        segmenter.encode_inputs(inputs)
    return storages.peak_bytes


def _step_peak(segmenter: Segmenter, args: argparse.Namespace, storages: LiveStorages) -> int:
    segmenter.train()
    optimizer = make_optimizer(segmenter, learning_rate=1e-4)
    # The scaler of fp16 has to look at gradients, which have no values here. It holds two numbers: none is needed.
    scaler = gradient_scaler("fp32", CPU)
    batch = _batch(segmenter, args)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    scaler.step(optimizer)  # makes AdamW's state, so that what follows is a step like all but the first
    if args.accumulate == 1:
        optimizer.zero_grad()  # else a step's later batches find the gradients of those before
    storages.peak_bytes = storages.current_bytes
    accumulate_gradients(segmenter, batch, args.batch_size, scaler, args.precision)
    scaler.step(optimizer)
    return storages.peak_bytes


def _batch(segmenter: Segmenter, args: argparse.Namespace) -> dict[str, Tensor]:
    """A batch as the loaders give it; with embeddings where the encoder has been dropped."""
    side = args.image_size or MODEL_SIZES[args.model_type].image_size
    batch = {
        "image": torch.zeros(args.batch_size, 3, side, side, dtype=torch.uint8),
        "mask": torch.zeros(args.batch_size, 1, side, side, dtype=torch.uint8),
    }
    if segmenter.encoder_is_frozen and args.cache:
        shape = args.batch_size, *segmenter.embedding_shape
        batch["embedding"] = torch.zeros(shape, dtype=CACHE_DTYPES[args.cache_dtype])
    return batch


def changed(args: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    """A copy of the flags with some of them changed."""
    return argparse.Namespace(**vars(args) | changes)


def compare_with_prediction(args: argparse.Namespace, method: str, device: torch.device) -> dict[str, float]:
    """The peak of tensors on a CUDA device beside the prediction for a training step, in MiB; printed too."""
    measured = torch.cuda.max_memory_allocated(device) / MIB
    predicted = predict_peak(args, method).train_mib
    print(f"peak memory of training: {measured:,.0f} MiB of CUDA tensors, {predicted:,.0f} MiB predicted")
    return {"measured_peak_mib": round(measured, 1), "predicted_peak_mib": round(predicted, 1)}


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def out_of_memory_advice(args: argparse.Namespace, method: str, device: torch.device) -> str:
    """One line for a run that ran out of memory: what it needs, what there is, and flags with which it would fit."""
    total = total_memory(device) / MIB
    needed = predict_peak(args, method)
    line = f"out of memory on {device}: this run needs {_described(needed)}, and the device has {total:,.0f} MiB; "
    for changes in tqdm(
        _cheaper_flags(args, method, needed), desc="out of memory: what would fit", leave=False, disable=None
    ):
        predicted = predict_peak(changed(args, **changes), method)
        # Less than now, even if now should fit: then other programs hold a part of the memory.
        if predicted.card_mib <= min(total, needed.card_mib - 1):
            flags = " ".join(f"--{name}" + ("" if value is True else f" {value}") for name, value in changes.items())
            return f"{line}by this prediction these flags would fit: {flags} ({_described(predicted)})"
    return f"{line}by this prediction no smaller batch, precision or execution would fit: use a smaller --image_size"


def _described(peak: PeakMemory) -> str:
    tensors = max(peak.train_mib, peak.encode_mib or 0)
    return f"{tensors:,.0f} MiB of tensors, about {peak.card_mib:,.0f} MiB with the margin"


def _cheaper_flags(args: argparse.Namespace, method: str, needed: PeakMemory) -> Iterator[dict[str, Any]]:
    """Flags that take less memory, in the order to try: smaller batches, then all batches in bfloat16, and so on."""
    base: dict[str, Any] = {}
    if args.encode_batch_size > 1 and (needed.encode_mib or 0) > needed.train_mib:
        base["encode_batch_size"] = 1
    extras: list[dict[str, Any]] = [{}]
    if args.precision == "fp32":
        extras.append({"precision": "bf16"})
    if method == "sam_adapter" and not args.grad_checkpointing:
        extras.append({"grad_checkpointing": True})
    if method == "cad" and args.adapter_execution == "plain":
        extras.append({"adapter_execution": "lean"})
    for extra in extras:
        base = base | extra
        if base:
            yield base
        batch_size = args.batch_size
        while batch_size > 1:
            batch_size //= 2
            accumulate = args.accumulate * args.batch_size // batch_size
            yield {"batch_size": batch_size, "accumulate": accumulate, **base}


def report(args: argparse.Namespace) -> str:
    """What memory.py prints: the prediction for one method, or the table of all; as text, or as JSON with `--json`."""
    if args.table:
        rows = [
            changed(args, method=method, model_type=model_type, grad_checkpointing=checkpointing)
            for method, checkpointing in TABLE_METHODS
            for model_type in TABLE_MODELS
        ]
        peaks = [
            (row, predict_peak(row, row.method)) for row in tqdm(rows, desc="predicting", leave=False, disable=None)
        ]
        if args.json:
            return json.dumps([_record(*peak) | {"grad_checkpointing": peak[0].grad_checkpointing} for peak in peaks])
        return f"{_headline(args)}\n\n{card_table(peaks)}\n\n{MARGIN_NOTE}"
    peak = predict_peak(args, args.method)
    if args.json:
        return json.dumps(_record(args, peak))
    lines = [
        f"{_name(args)} with {args.model_type}, {_headline(args)}",
        f"training step        {peak.train_mib:>10,.0f} MiB",
        f"trainable parameters {peak.trainable_parameters:>10,}",
        f"with the margin      {peak.card_mib:>10,.0f} MiB of a card",
        MARGIN_NOTE,
    ]
    if peak.encode_mib is not None:
        lines.insert(2, f"encoding             {peak.encode_mib:>10,.0f} MiB, {args.encode_batch_size} at once")
    return "\n".join(lines)


def _name(args: argparse.Namespace) -> str:
    return AdapterDesign.from_flags(args).adapter if args.method == "cad" else str(args.method)


def _headline(args: argparse.Namespace) -> str:
    side = args.image_size or MODEL_SIZES[args.model_type].image_size
    return f"predicted, not run: batch {args.batch_size}, {args.precision}, {side} pixels" + (
        "" if args.cache else ", no cache"
    )


def _record(args: argparse.Namespace, peak: PeakMemory) -> dict[str, Any]:
    return {
        "train_peak_mib": round(peak.train_mib, 1),
        "encode_peak_mib": None if peak.encode_mib is None else round(peak.encode_mib, 1),
        "trainable_parameters": peak.trainable_parameters,
        **{name: getattr(args, name) for name in ("method", "model_type", "batch_size", "precision")},
        **({"adapter": _name(args)} if args.method == "cad" else {}),
    }


def card_table(peaks: list[tuple[argparse.Namespace, PeakMemory]]) -> str:
    """One row a prediction: its MiB, and which cards have room for it with the margin."""
    columns = ("method", "model", "step MiB", "encoding MiB", "with margin", *(f"{gb} GB" for gb in CARDS_GB))
    rows = [
        (
            _name(row) + (" (checkpointing)" if row.grad_checkpointing else ""),
            row.model_type,
            f"{peak.train_mib:,.0f}",
            "" if peak.encode_mib is None else f"{peak.encode_mib:,.0f}",
            f"{peak.card_mib:,.0f}",
            *("fits" if peak.card_mib <= gb * 1024 else "-" for gb in CARDS_GB),
        )
        for row, peak in peaks
    ]
    return format_table(rows, columns)
