"""The trainings of benchmarks/accuracy.py: which configurations there are, and the weights of each."""

import argparse
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from cad.datasets.pairs import find_pairs
from cad.errors import UserError
from cad.files import write_json
from cad.options import PROJECT_ROOT, sam_checkpoint_path
from cad.training.resume import fingerprint

FIXED = ["--adapter_gate", "fixed", "--adapter_scale", "0.1"]  # as published
# A correction as large as the embedding: ten times the published one, where the embedding's deviation is 1.
RELATIVE = ["--adapter_gate", "relative", "--adapter_scale", "1.0"]
BEST = ["--adapter", "cad_hires", *RELATIVE]
# Every configuration: the method that it trains, and the flags of training that make it what it is.
CONFIGURATIONS: dict[str, tuple[str, list[str]]] = {
    "decoder": ("decoder", []),
    "sam_adapter": ("sam_adapter", []),
    "cad": ("cad", ["--adapter", "cad", *FIXED]),
    "cad_hires": ("cad", ["--adapter", "cad_hires", *FIXED]),
    "cad_relative": ("cad", ["--adapter", "cad", *RELATIVE]),
    "cad_hires_relative": ("cad", BEST),
    # The last one with a single thing changed.
    "cad_hires_fixed_1": ("cad", [*BEST, "--adapter_gate", "fixed"]),
    "cad_hires_scalar": ("cad", [*BEST, "--adapter_gate", "scalar"]),
    "cad_hires_channel": ("cad", [*BEST, "--adapter_gate", "channel"]),
    "cad_hires_no_high_frequency": ("cad", [*BEST, "--no_high_frequency"]),
    "cad_hires_structure_loss": ("cad", [*BEST, "--loss", "structure"]),
}
SCRIPTS = {"cad": "run_cad.py", "decoder": "run_decoder.py", "sam_adapter": "run_sa.py"}
Folders = tuple[Path, Path]  # of images and of their masks


def part_of(data: Folders, number: int | None, output_dir: Path, flags: str, skip_unpaired: bool = False) -> Folders:
    """The folders themselves without a number and `skip_unpaired`; else so many of their pairs (None: all), evenly
    spread over the names, copied to folders that are named after their content.

    Args:
        flags: "train" or "test": which flags the folders came from, for errors.
        skip_unpaired: leave out files without a partner.

    Raises:
        UserError: see `find_pairs`.
    """
    if number is None and not skip_unpaired:
        return data
    pairs = find_pairs(*data, skip_unpaired, flags)
    wanted = min(number or len(pairs), len(pairs))
    chosen = [pairs[int(place)] for place in np.linspace(0, len(pairs) - 1, wanted)]
    folder = output_dir / "some" / fingerprint(chosen, [])["sha256"][:12]
    for part in ("image", "mask"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for pair in chosen:
            source: Path = getattr(pair, part)
            shutil.copyfile(source, folder / part / source.name)
    return folder / "image", folder / "mask"


def trained_weights(args: argparse.Namespace, train: Folders, data: str, name: str, seed: int) -> Path:
    """Train a configuration with a seed, unless that is done, and return its weights.

    Args:
        data: the hash of the training files.

    Raises:
        UserError: the folder holds a run of other flags or files, or training stopped.
    """
    method, extra = CONFIGURATIONS[name]
    folder = args.output_dir / "runs" / f"{name}-seed{seed}"
    flags = ["--train_image_dir", str(train[0].absolute()), "--train_mask_dir", str(train[1].absolute())]
    flags += ["--model_type", args.model_type, "--epoch", str(args.epochs), "--seed", str(seed), *extra]
    # All images and the last epoch, as the original: an epoch chosen on few images can cost as much as methods differ.
    flags += ["--val_fraction", "0"]
    flags += ["--lr", str(args.lr)] if args.lr else []
    flags += ["--image_size", str(args.image_size)] if args.image_size else []
    flags += ["--views", str(args.views)] if args.views is not None else []
    # Looked for beside this project, as training does by itself, not in the folder of the run.
    start = sam_checkpoint_path(args.model_type, args.checkpoint, PROJECT_ROOT / "checkpoints")
    if start != "package":
        flags += ["--checkpoint", start if start == "random" else str(Path(start).absolute())]
    finished = folder / "finished.json"
    if finished.is_file():
        done = json.loads(finished.read_text())
        if done["flags"] != flags:
            raise UserError(f"{folder}: was trained with other flags ({' '.join(done['flags'])}); use another folder")
        if done["data"] != data:
            raise UserError(f"{folder}: was trained on other images or masks; use another --output_dir")
        return folder / done["weights"]
    print(f"\n{name}, seed {seed}", flush=True)
    of_machine = ["--num_workers", str(args.num_workers), "--device", args.device, "--wandb", "disabled"]
    of_machine += ["--output_dir", str(folder), "--cache_dir", str(args.output_dir / "embeddings")]
    # A process of its own frees all that a run held before the next one starts.
    command = [sys.executable, str(PROJECT_ROOT / "code" / SCRIPTS[method]), *flags, *of_machine, "--resume", "auto"]
    if run_to_its_end(command):
        raise UserError(f"{name}, seed {seed}: training stopped; the same command goes on from there")
    summary = max((folder / "runs").glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
    weights = json.loads(summary.read_text())["weights"]
    write_json(finished, {"flags": flags, "data": data, "weights": weights})
    return folder / weights


def run_to_its_end(command: list[str]) -> int:
    """The exit code of a command that may take its time to stop: a training saves its state first.

    Ctrl-C reaches it from the terminal, and SIGTERM from here.
    """
    with subprocess.Popen(command) as process:
        before = {
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
        }
        try:
            return process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
