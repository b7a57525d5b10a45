"""SAM's own parts: which sizes there are, build them, load their weights and prove which weights they are.

The modules are segment_anything's classes; nothing of it is copied here. Weights are read without unpickling code.
"""

import hashlib
import pickle
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from cad.encoders.attention import use_lean_attention
from cad.errors import MissingPathError, UserError

PIXEL_MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255
PIXEL_STD = (58.395, 57.12, 57.375)
PATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The measures of a mask decoder and of what it is given. Sides in pixels."""

    encoder_size: int = 1024  # side of the encoder's input
    image_size: int = 512  # side of adapter input and mask, unless another is asked for
    channels: int = 256  # width of the decoder
    mask_in_chans: int = 16
    decoder_mlp_dim: int = 2048
    decoder_heads: int = 8
    iou_head_hidden_dim: int = 256
    file_name: str = ""  # the official weights; empty where there are none
    sha256: str = ""  # of that file; its name holds the first digits of its MD5

    @property
    def grid(self) -> int:
        """Side of the image embedding."""
        return self.encoder_size // PATCH_SIZE


@dataclass(frozen=True, kw_only=True)
class SamSize(ModelSize):
    """The measures of one SAM."""

    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    window_size: int = 14
    mlp_ratio: float = 4.0


SAM_SIZES = {
    "vit_b": SamSize(
        embed_dim=768,
        depth=12,
        num_heads=12,
        global_attn_indexes=(2, 5, 8, 11),
        file_name="sam_vit_b_01ec64.pth",
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit_l": SamSize(
        embed_dim=1024,
        depth=24,
        num_heads=16,
        global_attn_indexes=(5, 11, 17, 23),
        file_name="sam_vit_l_0b3195.pth",
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_h": SamSize(
        embed_dim=1280,
        depth=32,
        num_heads=16,
        global_attn_indexes=(7, 15, 23, 31),
        file_name="sam_vit_h_4b8939.pth",
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    # A small SAM for the demo and for tests: no pretrained weights exist.
    "vit_demo": SamSize(
        embed_dim=96,
        depth=4,
        num_heads=4,
        global_attn_indexes=(1, 3),
        encoder_size=256,
        image_size=256,
        window_size=7,
        channels=64,
        mask_in_chans=4,
        decoder_mlp_dim=128,
        decoder_heads=4,
        iou_head_hidden_dim=64,
    ),
}
# Other encoders, each with the small decoder of vit_demo; a package brings the weights (see packaged_encoder.py).
PACKAGED_SIZES = {
    "efficientnet_lite0": ModelSize(
        encoder_size=512,
        image_size=256,
        channels=64,
        mask_in_chans=4,
        decoder_mlp_dim=128,
        decoder_heads=4,
        iou_head_hidden_dim=64,
    ),
}
MODEL_SIZES: dict[str, ModelSize] = {**SAM_SIZES, **PACKAGED_SIZES}


class SamEncoder(ImageEncoderViT):
    """SAM's image encoder with lean attention. It states what the segmenter asks of any image encoder:

    Attributes:
        img_size: E, the side of its input.
        grid, channels: G and C; it maps normalised images (B, 3, E, E) to (B, C, G, G).
        pixel_mean, pixel_std: the normalisation of RGB pixels in 0..255.
    """

    pixel_mean, pixel_std = PIXEL_MEAN, PIXEL_STD

    def __init__(self, size: SamSize) -> None:
        super().__init__(
            img_size=size.encoder_size,
            patch_size=PATCH_SIZE,
            embed_dim=size.embed_dim,
            depth=size.depth,
            num_heads=size.num_heads,
            mlp_ratio=size.mlp_ratio,
            out_chans=size.channels,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=size.window_size,
            global_attn_indexes=size.global_attn_indexes,
        )
        use_lean_attention(self)
        self.grid, self.channels = size.grid, size.channels


class Sam(nn.Module):
    """Image encoder, prompt encoder and mask decoder under the names of SAM's state dict.

    Args:
        image_encoder: one that is not SAM's, with the attributes of `SamEncoder`; its C may differ from the decoder's.
    """

    def __init__(self, size: ModelSize, image_encoder: nn.Module | None = None) -> None:
        super().__init__()
        if image_encoder is None:
            assert isinstance(size, SamSize)
            image_encoder = SamEncoder(size)
        self.image_encoder: Any = image_encoder
        self.prompt_encoder = PromptEncoder(
            embed_dim=size.channels,
            image_embedding_size=(image_encoder.grid, image_encoder.grid),
            input_image_size=(image_encoder.img_size, image_encoder.img_size),
            mask_in_chans=size.mask_in_chans,
        )
        self.mask_decoder = MaskDecoder(
            transformer_dim=size.channels,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=size.channels, mlp_dim=size.decoder_mlp_dim, num_heads=size.decoder_heads
            ),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=size.iou_head_hidden_dim,
        )


@dataclass(frozen=True)
class BaseWeights:
    """Which SAM weights a model was built on: a file name, or the seed of random ones, and a SHA-256 of either.

    `encoder_sha256` is of the encoder alone, where it may be the same beside different other weights.
    """

    source: str
    sha256: str
    seed: int | None = None
    encoder_sha256: str | None = None

    def as_metadata(self) -> dict[str, Any]:
        return {"source": self.source, "sha256": self.sha256, "seed": self.seed}


def read_weights_file(path: Path) -> Any:
    """Read a .pth file without running code from it.

    Raises:
        MissingPathError: no such file.
        UserError: truncated, not a PyTorch file, or it holds objects other than tensors and plain values.
    """
    if not path.is_file():
        raise MissingPathError(f"{path}: {'a folder' if path.is_dir() else 'no such checkpoint file'}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path):
            raise UserError(
                f"{path}: refused, since it holds more than tensors and plain values and loading it could run code; "
                "there is no unsafe way to load it here; save its state_dict() alone"
            ) from error
        raise UserError(
            f"{path}: refused: damaged, not a PyTorch weights file, or one that could run code; get it again"
        ) from error
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # whatever an unpickler makes of arbitrary bytes
        raise UserError(f"{path}: truncated, or not a PyTorch weights file; get it again") from error


def build_random_sam(size: ModelSize, seed: int, image_encoder: nn.Module | None = None) -> Sam:
    """A SAM with PyTorch's initial weights, the same for the same seed; the caller's random state is left alone.

    Args:
        image_encoder: see `Sam`; it keeps its weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Sam(size, image_encoder)


def build_empty(model_type: str) -> Sam:
    """The modules of a model type, for whom their values do not matter; on the default device.

    Raises:
        UserError: a package that they need is not installed.
    """
    if model_type in PACKAGED_SIZES:
        from cad.encoders.efficientnet import build_packaged  # builds on this module

        return build_packaged(model_type)
    return Sam(SAM_SIZES[model_type])


def build_sam(size: SamSize, state: Mapping[str, Tensor], source: str) -> Sam:
    """A SAM with the weights in `state`, all of them and no others.

    Args:
        source: what to call the weights in an error.

    Raises:
        UserError: a tensor is missing, unknown or of another shape.
    """
    with torch.device("meta"):  # no time or memory for initial values that are replaced at once
        sam = Sam(size)
    check_state(sam.state_dict(), state, source)
    broken = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise UserError(f"{source}: {len(broken)} tensors hold NaN or infinity (first: {broken[0]}); get it again")
    sam.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True, assign=True)
    return sam


def check_state(expected: Mapping[str, Tensor], found: Mapping[str, Any], source: str) -> None:
    """Raise a UserError unless `found` has exactly the tensors of `expected`, each of the same shape."""
    problems = []
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    wrong = [name for name in expected if name in found and not _same_shape(expected[name], found[name])]
    if missing:
        problems.append(f"{len(missing)} tensors are missing (first: {missing[0]})")
    if unknown:
        problems.append(f"{len(unknown)} are unknown (first: {unknown[0]})")
    if wrong:
        name = wrong[0]
        shape = tuple(getattr(found[name], "shape", ()))
        problems.append(
            f"{len(wrong)} have another shape (first: {name}, expected {tuple(expected[name].shape)}, found {shape})"
        )
    if problems:
        raise UserError(f"{source}: does not fit this model: {'; '.join(problems)}; is --model_type right?")


def _same_shape(expected: Tensor, found: Any) -> bool:
    return isinstance(found, Tensor) and found.shape == expected.shape


def guess_model_type(state: Mapping[str, Any]) -> str | None:
    """The model type whose width and depth a SAM state dict has, or None."""
    positions = state.get("image_encoder.pos_embed")
    if not isinstance(positions, Tensor):
        return None
    depth = len({name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")})
    for model_type, size in SAM_SIZES.items():
        if (positions.shape[-1], depth) == (size.embed_dim, size.depth):
            return model_type
    return None


def load_sam(model_type: str, checkpoint: str | Path, seed: int = 0) -> tuple[Sam, BaseWeights]:
    """Build SAM with the weights of a file, or with seeded random ones.

    Args:
        model_type: a key of `MODEL_SIZES`.
        checkpoint: path of a SAM state dict, or the word "random"; not used where a package brings the weights.
        seed: seed of the random weights.

    Raises:
        MissingPathError, UserError: see `read_weights_file` and `build_sam`.
    """
    if model_type in PACKAGED_SIZES:
        from cad.encoders.efficientnet import load_packaged  # builds on this module

        return load_packaged(model_type, seed)
    size = SAM_SIZES[model_type]
    if str(checkpoint) == "random":
        sam = build_random_sam(size, seed)
        return sam, BaseWeights("random", hash_tensors(sam.state_dict()), seed)
    path = Path(checkpoint)
    state = read_weights_file(path)
    if not isinstance(state, dict) or "image_encoder.pos_embed" not in state:
        raise UserError(
            f"{path}: not SAM weights: expected a state dict with image_encoder.*, prompt_encoder.*, mask_decoder.*"
        )
    guess = guess_model_type(state)
    if guess is not None and guess != model_type:
        raise UserError(f"{path}: holds {guess} weights, but the model type is {model_type}; pass --model_type {guess}")
    base = BaseWeights(path.name, hash_file(path))
    if path.name == size.file_name and base.sha256 != size.sha256:
        print(
            f"warning: {path}: has the name of SAM's official weights, but not their SHA-256 (expected "
            f"{size.sha256[:12]}..., found {base.sha256[:12]}...)",
            file=sys.stderr,
        )
    return build_sam(size, state, str(path)), base


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_tensors(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes of the tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def resize_for_encoder(image: np.ndarray, side: int) -> np.ndarray:
    """Resize an RGB image (H, W, 3) uint8 to (side, side, 3) uint8 as the original does: Pillow, bilinear."""
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def normalise_for_encoder(
    images: Tensor, mean: tuple[float, ...] = PIXEL_MEAN, std: tuple[float, ...] = PIXEL_STD
) -> Tensor:
    """RGB (B, 3, E, E) in 0..255, floating point -> normalised encoder input of the same shape; SAM's by default."""
    return (images - images.new_tensor(mean).view(1, 3, 1, 1)) / images.new_tensor(std).view(1, 3, 1, 1)
