"""Resuming: `runs/<start time>/resume.pth` holds all that a run needs to go on as if it had never stopped.

The order of images and their augmentation are pure functions of seed, epoch and name, so that an epoch can be gone on
with in the middle. The file is there from before the first step until the run is finished.
"""

import argparse
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cad.datasets.pairs import Pair
from cad.distributed import from_first, is_first
from cad.encoders.sam import hash_file, read_weights_file
from cad.errors import MissingPathError, UserError
from cad.files import write_atomically
from cad.options import NO_FILE, OneLineParser
from cad.trained_weights import read_weights
from cad.training.frozen import FrozenParameters
from cad.training.options import check_flags
from cad.training.state import Best, TrainingState
from cad.training.unfinished import RESUME_FILE, newest_unfinished

FORMAT = "sam-cad resume"
FORMAT_VERSION = 1
# Flags that may differ from those of the run that is resumed: they change no number of an epoch, or what they name is
# compared itself, as images, masks and SAM's weights are. All others may not.
FOLLOWED = (
    *("train_image_dir", "train_mask_dir", "val_image_dir", "val_mask_dir", "checkpoint"),
    *("num_workers", "device", "encode_batch_size", "grad_checkpointing", "dist", "port", "local_rank"),
    *("output_dir", "cache_dir", "publish", "project_name", "wandb", "wandb_details"),
    *("resume", "save_every", "skip_nonfinite", "early_stopping"),
)


@dataclass(frozen=True)
class SavedRun:
    """Content of a resume.pth.

    Args:
        about: what stays the same over a run: "method", "settings" (the flags), "base" (SAM's weights), "data" (see
            `fingerprint`), "processes", "wandb_id".
        state: see `TrainingState.state_dict`.
    """

    folder: Path
    about: dict[str, Any]
    state: dict[str, Any]


class ResumeFile:
    """The resume.pth of a run under way.

    Args:
        folder: the run's folder.
        about: see `SavedRun`.
        state: what is saved.
        minutes: how often `save_if_due` saves.
    """

    def __init__(self, folder: Path, about: dict[str, Any], state: TrainingState, minutes: float) -> None:
        self.path = folder / RESUME_FILE
        self._about, self._state, self._seconds = about, state, 60 * minutes
        self._frozen = FrozenParameters(state.segmenter)
        self._saved_at = time.monotonic()

    def save(self) -> None:
        """Write the state as it is now, between two steps.

        Raises:
            UserError: the disk is full or cannot be written; the file of before stays.
        """
        self._saved_at = time.monotonic()
        self._frozen.verify()
        if not is_first():
            return
        content = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "about": self._about,
            "state": self._state.state_dict(),
        }
        write_atomically(self.path, lambda file: torch.save(content, file))

    def save_if_due(self) -> None:
        if time.monotonic() - self._saved_at >= self._seconds:
            self.save()


def read_saved_run(path: Path) -> SavedRun:
    """Read a resume.pth; nothing is unpickled.

    Raises:
        MissingPathError, UserError: no such file, or one that holds something else.
    """
    content = read_weights_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"--resume {path}: expected the {RESUME_FILE} of a training run, found something else")
    if content.get("version") != FORMAT_VERSION:
        raise UserError(f"--resume {path}: format version {content.get('version')}, expected {FORMAT_VERSION}")
    return SavedRun(path.parent, content["about"], content["state"])


def find_saved_run(asked: str, output_dir: Path, method: str) -> Path | None:
    """The resume.pth that `--resume` means, or None where `auto` finds nothing.

    Raises:
        MissingPathError, UserError: a path without an unfinished run, or of one that is still running.
    """
    if asked == "auto":
        run = newest_unfinished(output_dir / "runs", method)
        return run.folder.resolve() / RESUME_FILE if run else None
    path = Path(asked).resolve()
    folder = path.parent if path.name == RESUME_FILE else path
    if not (folder / RESUME_FILE).is_file():
        if (folder / "summary.json").is_file():
            raise UserError(f"--resume {asked}: this run is finished; there is nothing to resume")
        raise MissingPathError(f"--resume {asked}: expected the folder of an unfinished run, with a {RESUME_FILE}")
    return folder / RESUME_FILE


def resumed_arguments(
    parser: OneLineParser, argv: Sequence[str] | None, asked: argparse.Namespace, method: str
) -> tuple[argparse.Namespace, SavedRun] | None:
    """The flags of the run that `--resume` means, with those of the command line where they may differ.

    Args:
        parser: of training; it is left with the saved flags as its defaults.
        asked: what it made of `argv`.

    Returns:
        The flags and the saved run; None where `--resume auto` finds nothing to resume.

    Raises:
        UserError: nothing to resume at a path, another method, or flags that would change the run's numbers.
    """
    path = from_first(find_saved_run(asked.resume, asked.output_dir, method) if is_first() else None)
    if path is None:
        print("--resume auto: nothing to resume, a new run starts")
        return None
    saved = read_saved_run(path)
    if saved.about["method"] != method:
        raise UserError(f"--resume {asked.resume}: is a run of {saved.about['method']}, not of {method}")
    settings = saved.about["settings"]
    output_dir = saved.folder.parent.parent
    if asked.output_dir != parser.get_default("output_dir") and asked.output_dir.resolve() != output_dir:
        print(f"--output_dir {asked.output_dir}: the run {saved.folder.name} stays in {output_dir}")
    # What was saved becomes the default, so that only flags of this command line can differ.
    parser.set_defaults(**{name: value for name, value in settings.items() if name != "output_dir"})
    args = parser.parse_args(argv)
    args.output_dir = output_dir
    now = saved_settings(args)
    differing = [name for name in settings if now.get(name) != settings[name] and name not in ("output_dir", "resume")]
    for name in differing:
        found = f"--{name} {now.get(name)}: the run {saved.folder.name} has {settings[name]}"
        if name not in FOLLOWED:
            raise UserError(f"{found}, and its numbers depend on it; leave the flag out, or start a new run")
        print(f"{found}; followed")
    check_flags(args)
    return args, saved


def saved_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as plain values that mean the same wherever the user stands."""
    settings = {
        name: str(value.absolute()) if isinstance(value, Path) else value for name, value in sorted(vars(args).items())
    }
    if args.checkpoint not in NO_FILE:
        settings["checkpoint"] = str(Path(args.checkpoint).absolute())
    return settings


def check_saved(saved: SavedRun, about: dict[str, Any], weights: Path) -> None:
    """Raise UserError unless data and SAM's weights are those of the run, and its best weights are there."""
    then, now = saved.about["data"], about["data"]
    if then != now:
        count = f"{then['images']} then and {now['images']} now" if then["images"] != now["images"] else "other files"
        raise UserError(f"--resume: the images or masks are not those that the run was started with ({count})")
    if saved.about["processes"] != about["processes"]:
        raise UserError(
            f"--resume: the run has {saved.about['processes']} processes, which its batches depend on, not "
            f"{about['processes']}; start it with torchrun --nproc_per_node, or --dist True, as before"
        )
    if saved.about["base"]["sha256"] != about["base"]["sha256"]:
        raise UserError("--resume: SAM's weights are not those that the run was started with")
    if saved.state["progress"]["best"]["epoch"] and not weights.is_file():
        raise UserError(f"{weights}: no such file; it held the best weights so far: start a new run")


def latest_best(state: TrainingState, weights: Path) -> Best:
    """The best epoch so far: that of the weights file, where the run was cut off between writing it and the state."""
    best = state.progress.best
    if weights.is_file():
        kept = dict(read_weights(weights).metadata["metrics"])
        epoch = kept.pop("epoch")
        if epoch > best.epoch:
            del kept["on"]
            return Best(epoch, kept)
    return best


def fingerprint(train: list[Pair], validation: list[Pair]) -> dict[str, Any]:
    """What identifies the files of a run: how many images, and a hash of their names and content."""
    digest = hashlib.sha256()
    for part in (train, validation):
        for pair in part:
            digest.update(f"{pair.name}\0".encode())
            for file in (pair.image, pair.mask):
                digest.update(hash_file(file).encode())
        digest.update(b"\1")
    return {"images": len(train) + len(validation), "sha256": digest.hexdigest()}
