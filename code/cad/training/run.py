"""One training run from flags to weights: check the data, build the model, train, keep what is worth keeping."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cad.adapters.adapter_design import AdapterDesign
from cad.datasets.demo import prepare_demo
from cad.datasets.pairs import Pair, check_pairs, find_pairs, split_pairs
from cad.datasets.views import ViewDataset, ViewSampler
from cad.device import pick_device, pick_own_device
from cad.distributed import from_first, is_first, local_rank, processes, rank
from cad.encoders.sam import BaseWeights, load_sam
from cad.errors import UserError
from cad.files import hide_home, read_json_lines, remove_temporary_files, start_run_folder, write_json
from cad.precision import halve_frozen_weights, pick_precision
from cad.segmenter import Segmenter, count_parameters
from cad.trained_weights import publish
from cad.training.encoding import fill_cache, with_embeddings
from cad.training.engine import Loaders, Run, fit, rehearse
from cad.training.logger import NoLog, RunLog, wandb_mode
from cad.training.memory.peak_memory import compare_with_prediction, is_out_of_memory, out_of_memory_advice
from cad.training.resume import ResumeFile, SavedRun, check_saved, fingerprint, latest_best, saved_settings
from cad.training.state import TrainingState
from cad.training.stopping import StopRequest, ignore_in_worker
from cad.training.unfinished import RESUME_FILE, newest_unfinished


@dataclass
class Data:
    """The pairs of a run."""

    train: list[Pair]
    validation: list[Pair]


def train(args: argparse.Namespace, method: str, saved: SavedRun | None = None) -> Path:
    """Train one method as the flags say and return the path of the weights.

    Args:
        args: resolved flags (`cad.training.options.resolve_training`), or those of the saved run.
        method: one of `cad.options.TRAINED_METHODS`.
        saved: the run to go on with.

    Raises:
        UserError: bad data, weights or flags; nothing has been written then, except a demo's images. Also where memory
            runs out, with the flags that would make the run fit.
        Interrupted: a signal asked to stop.
    """
    device = pick_own_device(args.device, local_rank()) if processes() > 1 else pick_device(args.device)
    args.precision = pick_precision(args.precision, device)
    about: dict[str, Any] = {"method": method, "settings": saved_settings(args), "processes": processes()}
    wandb_mode(args.wandb)  # is WANDB_MODE sound?
    if saved is None and is_first():
        offer_unfinished(args.output_dir, method)
    data = find_checked_data(args)
    segmenter, base = build_segmenter(args, method, device)
    files = from_first(fingerprint(data.train, data.validation) if is_first() else None)
    about |= {"base": base.as_metadata(), "data": files}
    metadata = describe(segmenter, base, data, args, method)

    folder = saved.folder if saved else from_first(start_run_folder(args.output_dir) if is_first() else Path())
    weights = args.output_dir / "checkpoints" / f"{folder.name}.pth"
    metadata["run"] = folder.name
    metadata["settings"] = settings = plain_settings(args) | {"method": method, "device": str(device)}
    if saved is not None:
        check_saved(saved, about, weights)
    log = start_log(folder, settings, args, saved)
    about["wandb_id"] = log.wandb_id

    def start_run(segmenter: Segmenter, loaders: Loaders, stop: StopRequest) -> tuple[TrainingState, Run]:
        state = start_state(segmenter, loaders, args, device, saved, weights)
        resume_file = ResumeFile(folder, about, state, args.save_every)
        resume_file.save()
        return state, Run(weights, metadata, log, resume_file, stop)

    with closing(log), memory_advice(args, method, device):
        if saved is not None and is_first():
            remove_temporary_files(folder / RESUME_FILE, folder / "summary.json", weights)  # of killed processes
        summary, pictures = train_and_validate(segmenter, base, data, args, device, start_run)
        if device.type == "cuda":  # nothing counts tensors elsewhere, and the prediction takes seconds
            summary |= compare_with_prediction(args, method, device)
        if is_first():
            finish(summary, folder, weights, args)
            report(folder, settings, metadata | summary, pictures)
            (folder / RESUME_FILE).unlink()  # finished: nothing to resume
    return weights


@contextmanager
def memory_advice(args: argparse.Namespace, method: str, device: torch.device) -> Iterator[None]:
    """Turn running out of memory into a UserError with the flags that would make the run fit."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(out_of_memory_advice(args, method, device)) from error


def train_and_validate(
    segmenter: Segmenter,
    base: BaseWeights,
    data: Data,
    args: argparse.Namespace,
    device: torch.device,
    start_run: Callable[[Segmenter, Loaders, StopRequest], tuple[TrainingState, Run]],
) -> tuple[dict[str, Any], list[tuple[str, np.ndarray]]]:
    """Make the embeddings, then train; return the summary and the last pictures.

    A function of its own because its end ends the loaders' processes.
    """
    with StopRequest() as stop:
        loaders = make_loaders(segmenter, base, data, args, device, stop)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # encoding has a peak of its own
        state, run = start_run(segmenter, loaders, stop)
        return fit(state, loaders, args, run), state.progress.picture_arrays()


def start_log(
    folder: Path, settings: dict[str, Any], args: argparse.Namespace, saved: SavedRun | None
) -> RunLog | NoLog:
    """The log of a run, at the place where a saved run stopped; of several processes the first alone has one."""
    if not is_first():
        return NoLog()
    wandb_id = saved.about["wandb_id"] if saved else None
    epochs_done = saved.state["progress"]["epoch"] - 1 if saved else 0
    return RunLog(folder, settings, args.project_name, args.wandb, args.wandb_details, wandb_id, epochs_done)


def start_state(
    segmenter: Segmenter,
    loaders: Loaders,
    args: argparse.Namespace,
    device: torch.device,
    saved: SavedRun | None,
    weights: Path,
) -> TrainingState:
    """The state that training starts from: a new one, after a rehearsal, or that of the saved run."""
    state = TrainingState(segmenter, args, device)
    if saved is None:
        rehearse(segmenter, loaders, args, device)
        return state
    state.load_state_dict(saved.state)
    progress = state.progress
    progress.best = latest_best(state, weights)
    print(f"resumed {saved.folder.name} in epoch {progress.epoch}, after {progress.images} images of it")
    return state


def describe(
    segmenter: Segmenter, base: BaseWeights, data: Data, args: argparse.Namespace, method: str
) -> dict[str, Any]:
    """What a weights file says of the model in it, as plain values; printed in short."""
    trainable, total = count_parameters(segmenter)
    name = segmenter.design.adapter if method == "cad" else method
    print(
        f"{name}: {len(data.train)} training and {len(data.validation)} validation images "
        f"at {args.image_size} pixels\n"
        f"trainable params: {trainable:,} || all params: {total:,} || trainable: {100 * trainable / total:.2f} %"
    )
    return {
        "method": method,
        "model_type": args.model_type,
        "image_size": args.image_size,
        "base": base.as_metadata(),
        "demo": bool(args.demo),
        "demo_task": args.demo,
        "trainable_parameters": trainable,
        **(segmenter.design.as_metadata() if method == "cad" else {}),
    }


def offer_unfinished(output_dir: Path, method: str) -> None:
    """Say in one line that the newest unfinished run of this method can be gone on with."""
    if run := newest_unfinished(output_dir / "runs", method):
        print(f"unfinished: {run}; --resume auto goes on with it; now a new run starts")


def embed(args: argparse.Namespace) -> int:
    """Fill the embedding cache for the flags of a training run; return how many views had to be encoded.

    Raises:
        UserError: bad data, weights or flags, or a full disk.
    """
    device = pick_device(args.device)
    args.precision = pick_precision(args.precision, device)
    data = find_checked_data(args)
    segmenter, base = build_segmenter(args, "decoder", device)
    with StopRequest() as stop:
        return fill_cache(segmenter, base, view_orders(data, args), args, device, stop)


def find_checked_data(args: argparse.Namespace) -> Data:
    """Find the data and decode every file once; of several processes the first does so, before the others look."""
    if is_first():
        data = find_data(args)
        check_data(data, args)
    from_first(None)
    return data if is_first() else find_data(args)


def find_data(args: argparse.Namespace) -> Data:
    """Find and split the pairs that the flags name."""
    if args.demo:
        folder = prepare_demo(args.output_dir / "runs" / "demo", args.demo)
        print(f"demo: synthetic images in {folder}; its numbers show that the software works, not that the method does")
        args.train_image_dir, args.train_mask_dir = folder / "train" / "image", folder / "train" / "mask"
    pairs = find_pairs(args.train_image_dir, args.train_mask_dir, args.skip_unpaired, "train")
    if args.val_image_dir:
        return Data(pairs, find_pairs(args.val_image_dir, args.val_mask_dir, args.skip_unpaired, "val"))
    return Data(*split_pairs(pairs, args.val_fraction, args.seed))


def check_data(data: Data, args: argparse.Namespace) -> None:
    """Decode every file of the data, once, before anything is made of it; refuse a batch larger than the data."""
    if args.batch_size * processes() > len(data.train):
        times = f" times {processes()} processes" if processes() > 1 else ""
        raise UserError(
            f"--batch_size {args.batch_size}{times}: larger than the data set of {len(data.train)} training images"
            + (f" ({len(data.validation)} more are for validation)" if data.validation else "")
        )
    check_pairs(data.train + data.validation, needs_foreground=True)


def build_segmenter(args: argparse.Namespace, method: str, device: torch.device) -> tuple[Segmenter, BaseWeights]:
    """SAM with the adapter of the method, the same for the same seed, on the device."""
    if args.checkpoint == "random":
        print("warning: SAM's weights are random: the result says nothing about the method", file=sys.stderr)
    torch.manual_seed(args.seed)
    sam, base = load_sam(args.model_type, args.checkpoint, args.seed)
    if device.type == "mps" and method == "cad" and args.adapter_execution == "lean":
        print("lean adapter: needs float64, which MPS lacks; using the plain one")
        args.adapter_execution = "plain"
    if processes() > 1 and method == "cad" and args.adapter_execution == "plain":
        raise UserError("--adapter_execution plain: only the lean one shares BatchNorm statistics between processes")
    design = AdapterDesign.from_flags(args)
    segmenter = Segmenter(sam, method, args.adapter_execution, args.grad_checkpointing, design)
    halve_frozen_weights(segmenter.image_encoder, args.precision)
    return segmenter.to(device), base


def make_loaders(
    segmenter: Segmenter,
    base: BaseWeights,
    data: Data,
    args: argparse.Namespace,
    device: torch.device,
    stop: StopRequest,
) -> Loaders:
    """Loaders of training and validation batches.

    Where the encoder is frozen and the cache is on, every embedding is made here, and the encoder is freed.
    """
    orders = view_orders(data, args)
    datasets: list[Dataset[dict[str, Any]]] = [views for views, _ in orders]
    if segmenter.encoder_is_frozen and args.cache:
        fill_cache(segmenter, base, orders, args, device, stop)
        datasets = [with_embeddings(views, segmenter, base, args) for views, _ in orders]
        segmenter.drop_encoder()
    train, validation = (
        DataLoader(
            views,
            batch_size=args.batch_size,
            sampler=order,  # gives (index, view) pairs
            num_workers=args.num_workers,
            persistent_workers=args.num_workers > 0,
            pin_memory=device.type == "cuda",
            worker_init_fn=ignore_in_worker,
        )
        for views, (_, order) in zip(datasets, orders, strict=True)
    )
    return Loaders(train, orders[0][1], validation if data.validation else None)


def view_orders(data: Data, args: argparse.Namespace) -> list[tuple[ViewDataset, ViewSampler]]:
    """The views of training and of validation, each with the order in which they are shown."""
    return [
        (
            ViewDataset(pairs, args.image_size, args.seed),
            ViewSampler(
                len(pairs),
                args.seed,
                shuffle=training,
                views=args.views if training else 0,
                batch_size=args.batch_size,
                rank=rank(),
                processes=processes(),
            ),
        )
        for pairs, training in ((data.train, True), (data.validation, False))
    ]


def finish(summary: dict[str, Any], folder: Path, weights: Path, args: argparse.Namespace) -> None:
    """Write the summary, publish the weights under their well-known name, and say where everything is."""
    summary["weights"] = f"checkpoints/{weights.name}"
    if args.publish:
        kept = publish(weights, weights.with_name(args.publish))
        if kept:
            print(f"not copied to checkpoints/{args.publish}: {kept}", file=sys.stderr)
        else:
            summary["published"] = f"checkpoints/{args.publish}"
    write_json(folder / "summary.json", summary)
    print(f"weights: {weights}" + (f" and {args.publish}" if "published" in summary else ""))
    print(f"log:     {folder}")


def report(
    folder: Path, settings: dict[str, Any], metadata: dict[str, Any], pictures: list[tuple[str, np.ndarray]]
) -> None:
    """Write the curves and the page of the run. Its weights are safe by now: a failure here is only a warning."""
    from cad.reports.report import write_training_report  # not before it is needed: it brings Matplotlib

    try:
        write_training_report(folder, read_json_lines(folder / "log.jsonl"), settings, metadata, pictures)
    except Exception as error:
        print(f"warning: {folder}: no report of the run: {type(error).__name__}: {error}", file=sys.stderr)
    else:
        print(f"report:  {folder / 'report.html'}")


def plain_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as plain values; paths in the home folder start with `~`, so that no user name is kept."""
    return {
        name: hide_home(value) if isinstance(value, Path | str) else value for name, value in sorted(vars(args).items())
    }
