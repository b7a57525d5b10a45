"""Back to SAM: points, boxes and masks as prompts for a trained model, through segment_anything's own interface."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn

from cad.adapters.high_resolution import added_to_upscaling
from cad.datasets.views import resize_image
from cad.device import pick_device
from cad.encoders.sam import PIXEL_MEAN, PIXEL_STD, SAM_SIZES
from cad.errors import UserError
from cad.options import checkpoints_folder
from cad.segmenter import Segmenter
from cad.trained_weights import load_segmenter


def load_sam_predictor(
    checkpoint: str | Path, device: str, sam_checkpoint: str | Path | None, method: str | None
) -> "AdaptedPredictor":
    """See `cad.sam_predictor`."""
    base = None if sam_checkpoint is None else Path(sam_checkpoint).expanduser()
    path = Path(checkpoint).expanduser()
    segmenter, metadata = load_segmenter(path, checkpoints_folder(), base, method)
    if metadata["model_type"] not in SAM_SIZES:
        raise UserError(f"{path}: was trained on {metadata['model_type']}, which is no SAM and knows no prompts")
    return AdaptedPredictor(segmenter.to(pick_device(device)), metadata["image_size"])


class AdaptedPredictor(SamPredictor):
    """segment_anything's `SamPredictor` with the adapted encoder and the trained mask decoder inside.

    `set_image` squashes an image to a square as in training, where SAM would pad it; so the embedding is the one that
    was trained on, and a box over the whole image gives the segmenter's own logits. Prompts are in the pixels of the
    image, and masks have its size, as ever.

    Args:
        segmenter: on its device.
        image_size: S, the side that images were trained at.
    """

    def __init__(self, segmenter: Segmenter, image_size: int) -> None:
        super().__init__(AdaptedSam(segmenter, image_size))
        self.transform = ResizeToSquare(segmenter.encoder_size)
        self._segmenter = segmenter
        self._image_size = image_size
        self._maps: tuple[Tensor, ...] = ()  # of the image, for every call of the mask decoder

    @torch.no_grad()
    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Compute the adapted embedding of an image, for any number of prompts.

        Args:
            image: (H, W, 3) uint8.
            image_format: "RGB" or "BGR".

        Raises:
            ValueError: another format or shape.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format {image_format!r}: expected RGB or BGR")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image: expected (H, W, 3) uint8, found {image.shape} {image.dtype}")
        if image_format == "BGR":
            image = np.ascontiguousarray(image[..., ::-1])
        self.reset_image()
        images = torch.from_numpy(resize_image(image, self._image_size)).permute(2, 0, 1)[None].to(self.device)
        self.features, self._maps = self._segmenter.adapt(self._segmenter.encode(images), images)
        self.original_size = image.shape[:2]
        self.input_size = (self._segmenter.encoder_size, self._segmenter.encoder_size)
        self.is_image_set = True

    def predict_torch(self, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor]:
        """See segment_anything's `SamPredictor.predict_torch`."""
        with added_to_upscaling(self.model.mask_decoder, self._maps):
            return super().predict_torch(*arguments, **named)


class ResizeToSquare(ResizeLongestSide):
    """segment_anything's transform of images and prompts, to a square that the image fills; shapes are not kept."""

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """(height, width) that an image of (oldh, oldw) pixels is resized to."""
        return long_side_length, long_side_length


class AdaptedSam(Sam):
    """segment_anything's `Sam` around the parts of a segmenter, for its generator and its batched interface."""

    def __init__(self, segmenter: Segmenter, image_size: int) -> None:
        super().__init__(
            AdaptedImageEncoder(segmenter, image_size),
            segmenter.prompt_encoder,
            segmenter.mask_decoder,
            list(PIXEL_MEAN),
            list(PIXEL_STD),
        )
        self.to(segmenter.image_positions.device).eval()

    def postprocess_masks(self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]) -> Tensor:
        """Logits (B, C, 4G, 4G) -> (B, C, H, W) of the original image, any padding removed.

        Without padding they are resized once, as in training; SAM would go through the encoder's size first.
        """
        if min(input_size) == self.image_encoder.img_size:
            return F.interpolate(masks, original_size, mode="bilinear", align_corners=False)
        return super().postprocess_masks(masks, input_size, original_size)


class AdaptedImageEncoder(nn.Module):
    """A segmenter's encoder and adapter behind the interface of SAM's image encoder.

    Args:
        segmenter: any method; not copied.
        image_size: S, the side that its adapter was trained at.
    """

    def __init__(self, segmenter: Segmenter, image_size: int) -> None:
        super().__init__()
        self.img_size = segmenter.encoder_size
        self.image_size = image_size
        self.segmenter = segmenter

    def forward(self, x: Tensor) -> Tensor:
        """Normalised and padded (B, 3, E, E) -> adapted embedding (B, C, G, G).

        The adapter sees what the encoder sees, at its own size; padding, 0 here, is the mean colour there.

        Raises:
            UserError: the adapter has a high-resolution path, for which this interface has no place.
        """
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
        pixels = x * std + mean
        if self.image_size != self.img_size:
            pixels = F.interpolate(pixels, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        embeddings, maps = self.segmenter.adapt(self.segmenter.image_encoder(x), pixels.round().clamp(0, 255))
        if maps:
            raise UserError(
                "cad_hires adds to the mask decoder, which SAM's own predictor and batched interface cannot: use the "
                "predictor of cad.sam_predictor (for a mask generator: generator.predictor = predictor)"
            )
        return embeddings
