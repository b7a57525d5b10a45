"""A trained segmenter as one ONNX file, kept only if onnxruntime computes with it what PyTorch does."""

import argparse
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from cad.datasets.demo import draw_camouflage, draw_shadow
from cad.datasets.pairs import list_images, read_image
from cad.datasets.views import resize_image
from cad.errors import UserError, optional_package
from cad.export.exportable import ExportableSegmenter
from cad.files import refuse_existing, write_atomically
from cad.options import checkpoints_folder
from cad.prediction.model import TorchModel
from cad.prediction.onnx_model import FORMAT, FORMAT_VERSION, INPUT, OUTPUT, OnnxModel
from cad.segmenter import Segmenter
from cad.trained_weights import load_segmenter

OPSET = 17  # the first with LayerNormalization
MOST_BYTES = 2**31  # a protobuf file holds no more
COMPARED_IMAGES = 3
COMPARED_BATCHES = (1, COMPARED_IMAGES)
MOST_PROBABILITY_DIFFERENCE = 1e-3
LEAST_SAME_MASK = 0.999  # share of pixels


@dataclass(frozen=True)
class Agreement:
    """How far two models agree over all images and batch sizes: see `compare_models`."""

    probability_difference: float  # the largest
    same_mask: float  # share of the pixels, 0..1

    @property
    def is_enough(self) -> bool:
        return self.probability_difference <= MOST_PROBABILITY_DIFFERENCE and self.same_mask >= LEAST_SAME_MASK

    def __str__(self) -> str:
        return (
            f"probabilities differ by at most {self.probability_difference:.1e}, "
            f"the mask is the same on {100 * self.same_mask:.4f} % of pixels"
        )


def export(args: argparse.Namespace) -> None:
    """Write the model of the flags (`export_options.export_parser`) and print what it is and how well it agrees.

    Raises:
        UserError: missing packages, files that do not fit, a model too large for one file, or one that onnxruntime
            computes differently; no file is left then.
    """
    if args.output.suffix.lower() != ".onnx":
        raise UserError(f"--output {args.output}: expected a file name that ends in .onnx")
    refuse_existing(args.output)
    for package in ("onnx", "onnxruntime"):
        optional_package(package)
    segmenter, metadata = load_segmenter(args.checkpoint, checkpoints_folder(), args.sam_checkpoint, args.method)
    check_size(segmenter, metadata["model_type"])
    images = comparison_images(args.images, metadata["image_size"])
    print(f"exporting, then comparing with PyTorch on {len(images)} images, which takes minutes with ViT-B and larger")
    agreement = export_onnx(args.output, segmenter, metadata, images)
    side = metadata["image_size"]
    print(
        f"{args.output}: {metadata['method']} with {metadata['model_type']}, {args.output.stat().st_size / 2**20:.0f} "
        f"MiB\n{INPUT}: (batch, {side}, {side}, 3) uint8 RGB -> {OUTPUT}: (batch, 1, {side}, {side}) float32, above 0 "
        f"is foreground\nonnxruntime against PyTorch, {len(images)} images in batches of "
        f"{' and '.join(map(str, COMPARED_BATCHES))}: {agreement}"
    )


def check_size(segmenter: torch.nn.Module, model_type: str) -> None:
    """Raise a UserError where the weights do not fit one ONNX file."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in segmenter.parameters())
    if size >= MOST_BYTES:
        raise UserError(
            f"{model_type}: its weights take {size / 2**30:.1f} GiB, and one ONNX file holds less than 2 GiB; export a "
            "model trained with --model_type vit_b or vit_l, or predict with PyTorch"
        )


def export_onnx(path: Path, segmenter: Segmenter, metadata: Mapping[str, Any], images: np.ndarray) -> Agreement:
    """Export a segmenter, compare it with PyTorch on some images, and keep the file if they agree.

    Args:
        path: written under a temporary name first.
        metadata: of the weights; what describes the model goes into the file, nothing that names a folder.
        images: (N, S, S, 3) uint8 RGB to compare on.

    Returns:
        How far the two agree.

    Raises:
        UserError: they do not, or PyTorch cannot export the model, or the disk is full; no file is left.
    """
    content = onnx_content(segmenter, metadata)
    found = []

    def write_and_compare(file: BinaryIO) -> None:
        file.write(content)
        file.flush()
        expected = TorchModel(segmenter, metadata["image_size"], torch.device("cpu"))
        try:
            agreement = compare_models(expected, OnnxModel(Path(file.name)), images)
        except UserError as error:
            raise UserError(f"{path}: not written, since {error}") from error
        if not agreement.is_enough:
            raise UserError(
                f"{path}: not written, since onnxruntime computes another model than PyTorch: {agreement}; expected at "
                f"most {MOST_PROBABILITY_DIFFERENCE:g} and at least {100 * LEAST_SAME_MASK:g} %"
            )
        found.append(agreement)

    write_atomically(path, write_and_compare)
    return found[0]


def compare_models(expected: TorchModel, exported: OnnxModel, images: np.ndarray) -> Agreement:
    """Compare two models on images (N, S, S, 3) uint8, in every batch size of `COMPARED_BATCHES`.

    Raises:
        UserError: onnxruntime cannot run the exported one.
    """
    differences, same = [], []
    for size in COMPARED_BATCHES:
        for first in range(0, len(images), size):
            batch = images[first : first + size]
            logits = expected.mask_logits(batch), _run(exported, batch)
            probs = [torch.from_numpy(one).sigmoid() for one in logits]
            differences.append((probs[0] - probs[1]).abs().max().item())
            same.append(((logits[0] > 0) == (logits[1] > 0)).mean())
    # max() of Python overlooks NaN, which must not count as agreement.
    return Agreement(float(np.max(differences)), float(np.min(same)))


def _run(exported: OnnxModel, batch: np.ndarray) -> np.ndarray:
    try:
        return exported.mask_logits(batch)
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime has an exception class for every status, without a common one
        reason = str(error).splitlines()[0]
        raise UserError(f"onnxruntime cannot run it on a batch of {len(batch)}: {reason}") from error


def onnx_content(segmenter: Segmenter, metadata: Mapping[str, Any]) -> bytes:
    """The bytes of the ONNX file, of any batch size, with its description."""
    onnx = optional_package("onnx")
    side = metadata["image_size"]
    images = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    model = onnx.load_from_string(_traced(ExportableSegmenter(segmenter, side), images))
    shape = model.graph.output[0].type.tensor_type.shape
    for dimension, value in zip(shape.dim[1:], (1, side, side), strict=True):
        dimension.dim_value = value  # the exporter made up names instead
    onnx.helper.set_model_props(model, _description(metadata))
    return model.SerializeToString()


def _traced(model: ExportableSegmenter, images: torch.Tensor) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # Every branch that tracing takes depends on sizes that the model fixes; the comparison would show others.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        # PyTorch's older exporter: the same graph from 2.6 to 2.14, in seconds where the newer one takes half a minute.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            torch.onnx.export(
                model,
                (images,),
                file,  # type: ignore[arg-type]  # an open file is taken by every version, though not declared by all
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                opset_version=OPSET,
                dynamo=False,
            )
        except (RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"PyTorch {torch.__version__} cannot export this model to ONNX ({reason}); 2.6 and 2.14 can"
            ) from error
    return file.getvalue()


def _description(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "method": metadata["method"],
        "model_type": metadata["model_type"],
        "image_size": str(metadata["image_size"]),
        "demo": str(metadata["demo"]).lower(),
        "run": str(metadata.get("run", "")),
    }


def comparison_images(folder: Path | None, side: int) -> np.ndarray:
    """The first images of a folder, or two textures and noise: (3, side, side, 3) uint8 RGB, or fewer from a folder.

    Raises:
        MissingPathError, UserError: see `list_images` and `read_image`.
    """
    random = np.random.default_rng(0)
    if folder is None:
        noise = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        images = [draw_camouflage(random)[0], draw_shadow(random)[0], noise]
    else:
        images = [read_image(path) for path in list(list_images(folder, "--images").values())[:COMPARED_IMAGES]]
    return np.stack([resize_image(image, side) for image in images])
