"""Trained weights on disk: what a file holds, how it is written, and how a segmenter is made from it again.

A file holds the trained parameters, the BatchNorm buffers and plain metadata (method, model type, sizes, which SAM
weights it stands on, settings, metrics); SAM's frozen parts are found again by file name and SHA-256. Files that the
original's code saved, a whole SAM with the adapter in it, load as well. Nothing is unpickled.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cad.adapters.adapter_design import AdapterDesign
from cad.encoders.sam import (
    MODEL_SIZES,
    PACKAGED_SIZES,
    SAM_SIZES,
    BaseWeights,
    build_sam,
    check_state,
    guess_model_type,
    hash_file,
    load_sam,
    read_weights_file,
)
from cad.errors import MissingPathError, UserError
from cad.files import write_atomically
from cad.options import TRAINED_METHODS
from cad.segmenter import Segmenter

FORMAT = "sam-cad weights"
FORMAT_VERSION = 1
_ADAPTER_OF = {"conv_adapter.conv_up.weight": "cad", "image_encoder.task_adapter_up.weight": "sam_adapter"}
_SAM_ADAPTER_PREFIXES = tuple(
    f"image_encoder.{name}." for name in ("HFC_tune", "patch_embed_tune", "task_adapter_blocks", "task_adapter_up")
)


@dataclass(frozen=True)
class TrainedWeights:
    """Content of a trained file. `whole_sam` says that `state` has SAM's frozen parts too (the original's files)."""

    path: Path
    state: dict[str, Tensor]
    metadata: dict[str, Any]
    whole_sam: bool = False


def save_weights(path: Path, segmenter: Segmenter, metadata: Mapping[str, Any]) -> None:
    """Write what was trained, atomically.

    Args:
        metadata: plain values, with at least "method", "model_type", "image_size", "base" and "demo".
    """
    state = {name: tensor.detach().cpu().clone() for name, tensor in segmenter.trained_state().items()}
    content = {"format": FORMAT, "version": FORMAT_VERSION, "metadata": dict(metadata), "state": state}
    write_atomically(path, lambda file: torch.save(content, file))


def read_weights(path: Path, method: str | None = None) -> TrainedWeights:
    """Read a trained file of this project or of the original's code.

    Args:
        method: what the file must hold. Of a whole SAM without an adapter, as the original saves after training the
            mask decoder alone, only this can say that it was trained.

    Raises:
        MissingPathError, UserError: no such file, or one that holds something else; see `read_weights_file`.
    """
    trained = _read_any(path, accept_plain_sam=method == "decoder")
    if method not in (None, trained.metadata["method"]):
        raise UserError(f"{path}: holds weights of {trained.metadata['method']}, not of --method {method}")
    return trained


def _read_any(path: Path, accept_plain_sam: bool) -> TrainedWeights:
    content = read_weights_file(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        if content.get("version") != FORMAT_VERSION:
            raise UserError(
                f"{path}: format version {content.get('version')}, expected {FORMAT_VERSION}; update sam-cad"
            )
        _check_metadata(path, content.get("metadata"))
        if not isinstance(content.get("state"), dict):
            raise UserError(f"{path}: the trained tensors are missing; the file is damaged, train again")
        return TrainedWeights(path, content["state"], content["metadata"])
    if isinstance(content, dict):
        for marker, method in _ADAPTER_OF.items():
            if marker in content:
                return _from_original(path, content, method)
        if "image_encoder.pos_embed" in content:
            if accept_plain_sam:
                return _from_original(path, content, "decoder")
            raise UserError(
                f"{path}: a whole SAM without an adapter: pass --method decoder if its mask decoder was trained, or "
                "pass it as --sam_checkpoint with --method zero_shot if nothing was"
            )
    raise UserError(
        f"{path}: not trained weights: expected a file that run_cad.py, run_sa.py or run_decoder.py wrote, or the "
        "original's"
    )


def _check_metadata(path: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: the metadata are missing; the file is damaged, train again")
    expected = {"method": TRAINED_METHODS, "model_type": tuple(MODEL_SIZES)}
    for key, known in expected.items():
        if metadata.get(key) not in known:
            raise UserError(f"{path}: {key} is {metadata.get(key)!r}, expected one of {', '.join(known)}")
    base = metadata.get("base")
    if not isinstance(base, dict) or not (isinstance(base.get("source"), str) and isinstance(base.get("sha256"), str)):
        raise UserError(f"{path}: the metadata do not name the SAM weights; the file is damaged, train again")
    seeded = base["source"] == "random" or metadata["model_type"] in PACKAGED_SIZES
    if seeded and type(base.get("seed")) is not int:
        raise UserError(f"{path}: the metadata lack the seed of the random weights; the file is damaged")
    try:
        AdapterDesign.from_metadata(metadata)
    except UserError as error:
        raise UserError(f"{path}: {error}; the file is damaged, or of a newer version of sam-cad") from error
    if not isinstance(metadata.get("image_size"), int) or not isinstance(metadata.get("demo"), bool):
        raise UserError(f"{path}: the metadata lack image_size or demo; the file is damaged, train again")
    if metadata["image_size"] < 8 or metadata["image_size"] % 8:
        raise UserError(f"{path}: image_size is {metadata['image_size']}, expected a positive multiple of 8")
    # What a report shows must be plain: found out now, not after an hour of scoring.
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: the metadata hold more than plain values ({error})") from error
    for key in ("trainable_parameters", "seconds_per_epoch"):
        if type(metadata.get(key, 0)) not in (int, float):
            raise UserError(f"{path}: {key} is {metadata[key]!r}, expected a number")


def _from_original(path: Path, content: dict[str, Tensor], method: str) -> TrainedWeights:
    """A whole SAM as the original saves it; the shared up-projection, named again in every block, is dropped."""
    model_type = guess_model_type(content)
    if model_type is None:
        raise UserError(f"{path}: weights of the original's code, but of no known size of SAM")
    state = {}
    for name, tensor in content.items():
        if ".up_projection." not in name:
            state[name] = tensor
        elif not torch.equal(tensor, content[f"image_encoder.task_adapter_up.{name.rsplit('.', 1)[1]}"]):
            raise UserError(f"{path}: {name} differs from image_encoder.task_adapter_up, which it must share")
    metadata = {
        "method": method,
        "model_type": model_type,
        "image_size": SAM_SIZES[model_type].image_size,
        "base": {"source": path.name, "sha256": None, "seed": None},
        "demo": False,
    }
    return TrainedWeights(path, state, metadata, whole_sam=True)


def load_segmenter(
    path: Path, checkpoints: Path, sam_checkpoint: Path | None = None, method: str | None = None
) -> tuple[Segmenter, dict[str, Any]]:
    """Make the segmenter that a trained file describes, in eval mode, and return it with the metadata.

    Args:
        checkpoints: folder in which SAM's weights are looked for, after the trained file's own.
        sam_checkpoint: SAM's weights, where they are elsewhere.
        method: see `read_weights`.

    Raises:
        MissingPathError, UserError: the file or its SAM weights are missing, damaged or not those it was trained on.
    """
    trained = read_weights(path, method)
    method, model_type = trained.metadata["method"], trained.metadata["model_type"]
    if trained.whole_sam:
        sam_state = {name: tensor for name, tensor in trained.state.items() if not _belongs_to_adapter(name)}
        segmenter = Segmenter(build_sam(SAM_SIZES[model_type], sam_state, str(path)), method)
        expected: Mapping[str, Tensor] = segmenter.state_dict()
    else:
        sam, found = load_sam(model_type, *find_base(trained, checkpoints, sam_checkpoint))
        _check_base(trained, found)
        segmenter = Segmenter(sam, method, design=AdapterDesign.from_metadata(trained.metadata))
        expected = segmenter.trained_state()
    check_state(expected, trained.state, str(path))
    # Not strict only because the frozen parts are already in place: the line above checked every name and shape.
    segmenter.load_state_dict(trained.state, strict=False)
    return segmenter.eval(), trained.metadata


def _belongs_to_adapter(name: str) -> bool:
    return name.startswith(("conv_adapter.", *_SAM_ADAPTER_PREFIXES))


def find_base(trained: TrainedWeights, checkpoints: Path, given: Path | None) -> tuple[str | Path, int]:
    """(SAM checkpoint, "random" or "package", and the seed) for `load_sam`, of weights that are not a whole SAM.

    Raises:
        MissingPathError: the file is not there.
    """
    base = trained.metadata["base"]
    if base["source"] == "random":
        return "random", int(base["seed"])
    if trained.metadata["model_type"] in PACKAGED_SIZES:
        return "package", int(base["seed"])
    if given is not None:
        if not given.is_file():
            raise MissingPathError(f"--sam_checkpoint {given}: no such file")
        return given, 0
    file_name = Path(str(base["source"])).name  # a name, never a path: the file may come from anywhere
    for folder in (trained.path.parent, checkpoints):
        if (folder / file_name).is_file():
            return folder / file_name, 0
    model_type = trained.metadata["model_type"]
    official = file_name == SAM_SIZES[model_type].file_name
    raise MissingPathError(
        f"{trained.path}: was trained on the SAM weights {file_name}, found neither beside it nor in {checkpoints}; "
        + (f"get them (python code/download_sam.py --model_type {model_type})" if official else "put the file there")
        + " or pass --sam_checkpoint FILE"
    )


def _check_base(trained: TrainedWeights, found: BaseWeights) -> None:
    expected = trained.metadata["base"]
    if found.sha256 == expected["sha256"]:
        return
    if found.source == "random":
        raise UserError(
            f"{trained.path}: the random SAM weights of seed {found.seed} come out differently with this version of "
            "PyTorch; use the version it was trained with (args.json of the run says which), or train again"
        )
    if trained.metadata["model_type"] in PACKAGED_SIZES:
        raise UserError(
            f"{trained.path}: was trained on {expected['source']} with SHA-256 {expected['sha256'][:12]}... beside "
            f"random weights of seed {found.seed}, but found {found.sha256[:12]}...; use the versions of PyTorch "
            "and of the encoder's package that it was trained with (args.json of the run says which), or train again"
        )
    raise UserError(
        f"{trained.path}: was trained on {expected['source']} with SHA-256 {expected['sha256'][:12]}..., but "
        f"{found.source} has {found.sha256[:12]}...; pass the right file as --sam_checkpoint"
    )


def publish(source: Path, target: Path) -> str | None:
    """Copy trained weights to a well-known name, where nothing but older trained weights may be replaced.

    Nor are weights that are not a demo's replaced by a demo's.

    Returns:
        None, or the reason why nothing was copied.
    """
    if target.exists():
        try:
            replaced = read_weights(target)
        except UserError:
            return f"{target.name} is something else than trained weights and stays as it is"
        if read_weights(source).metadata["demo"] and not replaced.metadata["demo"]:
            return f"{target.name} holds weights that are not a demo's and stays as it is"
        if hash_file(source) == hash_file(target):
            return None
    write_atomically(target, lambda file: file.write(source.read_bytes()))
    return None
