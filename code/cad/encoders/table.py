"""The table of encoders: what each is, as data. Nothing of PyTorch is imported, so that flags can be checked at once.

A new encoder is a file with its module and a row here: docs/EXTENDING.md.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Level:
    """A feature map of an encoder: (B, channels, E / stride, E / stride) for an input of side E."""

    name: str
    stride: int
    channels: int


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """What a frozen encoder states about itself, and the measures of the mask decoder behind it.

    Attributes:
        builder: "module:callable". It is called with these facts and returns the module, which maps normalised images
            (B, 3, E, E) to {level name: (B, channels, E / stride, E / stride)}.
        encoder_size: E, the side of the encoder's input in pixels.
        image_size: side of the adapter's input and of the mask, unless another is asked for.
        levels: the feature maps, the finest first.
        embedding: the name of the level that the mask decoder takes.
        pixel_mean, pixel_std: normalisation of RGB pixels in 0..255.
        licence: of the weights.
        weights: where they come from. "file": a file named by --checkpoint; "package": the builder loads them from an
            installed package; "random": none exist.
        is_sam: whether a file of weights holds SAM's prompt encoder and mask decoder too. They are random otherwise.
        file_name, sha256: of the official file; empty where there is none.
        channels: width of the mask decoder; the fields behind it are its other measures.
    """

    builder: str
    encoder_size: int
    image_size: int
    levels: tuple[Level, ...]
    embedding: str
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    licence: str
    weights: Literal["file", "package", "random"] = "file"
    is_sam: bool = False
    file_name: str = ""
    sha256: str = ""
    channels: int = 64
    mask_in_chans: int = 4
    decoder_mlp_dim: int = 128
    decoder_heads: int = 4
    iou_head_hidden_dim: int = 64

    def level(self, name: str) -> Level:
        """The level of that name."""
        return next(level for level in self.levels if level.name == name)

    @property
    def grid(self) -> int:
        """Side of the image embedding."""
        return self.encoder_size // self.level(self.embedding).stride


@dataclass(frozen=True, kw_only=True)
class SamFacts(EncoderFacts):
    """One size of SAM: the measures of its ViT too."""

    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    window_size: int = 14
    mlp_ratio: float = 4.0
    builder: str = "cad.encoders.sam_vit:SamEncoder"
    encoder_size: int = 1024
    image_size: int = 512
    levels: tuple[Level, ...] = (Level("neck", 16, 256),)
    embedding: str = "neck"
    licence: str = "Apache-2.0"
    is_sam: bool = True
    channels: int = 256
    mask_in_chans: int = 16
    decoder_mlp_dim: int = 2048
    decoder_heads: int = 8
    iou_head_hidden_dim: int = 256


# file_name holds the first digits of the file's MD5.
SAM_SIZES = {
    "vit_b": SamFacts(
        embed_dim=768,
        depth=12,
        num_heads=12,
        global_attn_indexes=(2, 5, 8, 11),
        file_name="sam_vit_b_01ec64.pth",
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit_l": SamFacts(
        embed_dim=1024,
        depth=24,
        num_heads=16,
        global_attn_indexes=(5, 11, 17, 23),
        file_name="sam_vit_l_0b3195.pth",
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_h": SamFacts(
        embed_dim=1280,
        depth=32,
        num_heads=16,
        global_attn_indexes=(7, 15, 23, 31),
        file_name="sam_vit_h_4b8939.pth",
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    # A small SAM for the demo and for tests.
    "vit_demo": SamFacts(
        embed_dim=96,
        depth=4,
        num_heads=4,
        global_attn_indexes=(1, 3),
        weights="random",
        encoder_size=256,
        image_size=256,
        levels=(Level("neck", 16, 64),),
        window_size=7,
        channels=64,
        mask_in_chans=4,
        decoder_mlp_dim=128,
        decoder_heads=4,
        iou_head_hidden_dim=64,
    ),
}
ENCODERS: dict[str, EncoderFacts] = {
    **SAM_SIZES,
    "efficientnet_lite0": EncoderFacts(
        builder="cad.encoders.efficientnet:EfficientNetLite0",
        encoder_size=512,
        image_size=256,
        levels=(Level("stride16", 16, 112),),
        embedding="stride16",
        pixel_mean=(127.0, 127.0, 127.0),
        pixel_std=(128.0, 128.0, 128.0),
        licence="Apache-2.0",
        weights="package",
    ),
}
