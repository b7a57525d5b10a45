"""An exported model, run by onnxruntime; PyTorch is not needed for it."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from cad.errors import MissingPathError, UserError, optional_package

FORMAT = "sam-cad onnx"
FORMAT_VERSION = "1"
INPUT, OUTPUT = "images", "mask_logits"


class OnnxModel:
    """A model that export_onnx.py wrote, as a `MaskModel`: on CUDA where onnxruntime has it, else on the CPU.

    Args:
        path: the `.onnx` file.

    Attributes:
        image_size: S, the side of its images in pixels.
        metadata: text by name: method, model_type, image_size, demo ("true" or "false"), run.

    Raises:
        MissingPathError: no such file.
        UserError: onnxruntime is not installed, or the file is damaged or was not written by export_onnx.py.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise MissingPathError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}")
        self._session = _open_session(path)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        if self.metadata.get("format") != FORMAT:
            raise UserError(
                f"{path}: an ONNX model, but not one that export_onnx.py wrote: expected format {FORMAT!r} in its "
                f"metadata, found {self.metadata.get('format')!r}"
            )
        if self.metadata.get("version") != FORMAT_VERSION:
            raise UserError(
                f"{path}: format version {self.metadata.get('version')}, expected {FORMAT_VERSION}; update sam-cad or "
                "export the model again"
            )
        self.image_size = _image_size(path, self._session, self.metadata.get("image_size", ""))

    def mask_logits(self, images: np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8 RGB -> (B, 1, S, S) float32 before the sigmoid; above 0 is foreground."""
        return self._session.run([OUTPUT], {INPUT: images})[0]


def _open_session(path: Path) -> Any:
    onnxruntime = optional_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; a warning for every constant that it folds helps nobody
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit():
        options.intra_op_num_threads = int(threads)  # onnxruntime has threads of its own, which do not ask
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [provider for provider in wanted if provider in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime has an exception class for every status, without a common one
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: truncated, or not an ONNX model that this onnxruntime can run ({reason}); export it again"
        ) from error


def _image_size(path: Path, session: Any, text: str) -> int:
    """The side in the metadata, if the model's input and output have it too."""
    side = int(text) if text.isdigit() else None
    ends = [(end.name, end.type, end.shape[1:]) for end in (*session.get_inputs(), *session.get_outputs())]
    if ends != [(INPUT, "tensor(uint8)", [side, side, 3]), (OUTPUT, "tensor(float)", [1, side, side])]:
        raise UserError(f"{path}: its metadata name image_size {text!r}, but its input and output are {ends}")
    assert side is not None
    return side
