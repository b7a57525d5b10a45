"""The segmenter of inference, written with operators that any runtime has: the same function, for export.

What differs from `Segmenter`, and why it stays the same function:

- resizing for the encoder and the high-frequency component are linear along each axis, so each is a product with fixed
  matrices (Pillow's rounding to whole numbers included), where runtimes have no Pillow and not all have an FFT
- the adapter's BatchNorm is folded into its convolutions, and conv_up into that of block 1 (lean_conv_adapter.py)
- windows are put together again without the arithmetic on the batch size that would fix it at export
- attention takes a few hundred queries at a time: a runtime without fused attention stores the maps, which for all
  4096 queries of ViT-B are 768 MiB an image
"""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Block, window_partition
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cad.adapters.conv_adapter import ConvAdapter, Corrections
from cad.adapters.conv_block import NEGATIVE_SLOPE, divide_by_peak
from cad.adapters.lean.execution import folded_first_block
from cad.adapters.lean.features import DILATION
from cad.adapters.sam_adapter import SamAdapterEncoder
from cad.encoders.attention import LeanAttention
from cad.encoders.sam import normalise_for_encoder
from cad.segmenter import Segmenter

MOST_QUERIES = 512


class FixedResize(nn.Module):
    """`resize_for_encoder` for square images, as matrix products: whole numbers (B, 3, S, S) -> (B, 3, E, E).

    Enlarging gives Pillow's numbers to the last bit; shrinking, a few per cent of them rounded the other way.

    Args:
        image_size: S.
        encoder_size: E.
    """

    weight: Tensor  # (E, S): row e holds the weights of the pixels that Pillow averages into pixel e

    def __init__(self, image_size: int, encoder_size: int) -> None:
        super().__init__()
        # The resized columns of the identity are the weights.
        identity = Image.fromarray(np.eye(image_size, dtype=np.float32))
        resized = identity.resize((image_size, encoder_size), Image.Resampling.BILINEAR)
        self.register_buffer("weight", torch.from_numpy(np.array(resized)))

    def forward(self, images: Tensor) -> Tensor:
        if self.weight.shape[0] == self.weight.shape[1]:
            return images
        # Pillow resizes along x first and rounds to whole numbers after each axis, halves upwards.
        resized = torch.floor(images @ self.weight.T + 0.5)
        return torch.floor(self.weight @ resized + 0.5)


class FixedHighFrequency(nn.Module):
    """`high_frequency` for square images of one size, as matrix products instead of an FFT: (..., S, S) -> (..., S, S).

    Removing frequencies -h..h-1 along both axes subtracts A x A^T, where the complex matrix A (S, S) keeps these
    frequencies alone; its real part is symmetric, and its imaginary part, of the unpaired frequency -h, antisymmetric.
    """

    real: Tensor  # (S, S)
    imaginary: Tensor  # (S, S)

    def __init__(self, size: int, tau: float = 0.25) -> None:
        super().__init__()
        half = int(math.sqrt(size * size * tau) // 2)
        frequencies = np.fft.fftfreq(size, 1 / size).round()
        kept = (frequencies >= -half) & (frequencies < half)
        low_pass = np.fft.ifft(kept[:, None] * np.fft.fft(np.eye(size), axis=0), axis=0)
        self.register_buffer("real", torch.from_numpy(low_pass.real.astype(np.float32)))
        self.register_buffer("imaginary", torch.from_numpy(low_pass.imag.astype(np.float32)))

    def forward(self, images: Tensor) -> Tensor:
        # The real part of (R + iI) x (R + iI)^T.
        low = self.real @ images @ self.real.T - self.imaginary @ images @ self.imaginary.T
        return (images - low).abs()


class FoldedConvAdapter(nn.Module):
    """`ConvAdapter` in eval mode with everything linear folded: (B, 6, S, S) -> `Corrections`.

    Args:
        adapter: the trained adapter; its parameters are copied.
        image_size: S, a multiple of 8.
    """

    weight: Tensor  # (C, 7, 3, 3): conv_up, conv_block1.conv and its BatchNorm; the last channel is one everywhere
    shortcut: Tensor  # (C, 7, 1, 1): conv_up with its bias as a column

    def __init__(self, adapter: ConvAdapter, image_size: int) -> None:
        super().__init__()
        weight, shortcut = folded_first_block(adapter.eval(), torch.empty(0), torch.float32)
        self.register_buffer("weight", weight.float().unflatten(1, (7, 3, 3)))
        self.register_buffer("shortcut", shortcut.float()[:, :, None, None])
        blocks = (adapter.conv_block2, adapter.conv_block3)
        convolutions = [fuse_conv_bn_eval(block.conv, block.bn) for block in blocks]
        for convolution in convolutions:
            convolution.padding = (DILATION, DILATION)  # the word "same" with a dilation is refused by onnxruntime
        self.convolutions = nn.ModuleList(convolutions)
        self.projections = nn.ModuleList(adapter.projections())
        for block, side in enumerate((image_size // 2, image_size // 4, image_size // 8)):
            # (G, side): adaptive average pooling along one axis, whatever the sizes
            pooling = F.adaptive_avg_pool1d(torch.eye(side), adapter.grid).T.contiguous()
            self.register_buffer(f"pooling{block}", pooling)
            if block < len(self.projections):
                self.register_buffer(f"resizing{block}", resizing_along_one_axis(side, (4, 2)[block] * adapter.grid))

    def forward(self, inputs: Tensor) -> Corrections:
        scaled = divide_by_peak(inputs)
        with_ones = torch.cat((scaled, torch.ones_like(scaled[:, :1])), dim=1)
        activation = F.leaky_relu(F.conv2d(with_ones, self.weight, padding=DILATION, dilation=DILATION), NEGATIVE_SLOPE)
        outputs = [F.avg_pool2d(activation, 2) + F.conv2d(F.avg_pool2d(with_ones, 2), self.shortcut)]
        for convolution in self.convolutions:
            x = outputs[-1]
            outputs.append(F.avg_pool2d(F.leaky_relu(convolution(x), NEGATIVE_SLOPE) + x, 2))
        pooled = [self._along_both_axes(x, f"pooling{block}") for block, x in enumerate(outputs)]
        maps = [
            self._along_both_axes(projection(outputs[block]), f"resizing{block}")
            for block, projection in enumerate(self.projections)
        ]
        return Corrections(torch.tanh(pooled[0] + pooled[1] + pooled[2]), tuple(reversed(maps)))

    def _along_both_axes(self, x: Tensor, weights: str) -> Tensor:
        matrix = self.get_buffer(weights)
        return x if matrix.shape[0] == matrix.shape[1] else matrix @ x @ matrix.T


def resizing_along_one_axis(side: int, result: int) -> Tensor:
    """What `cad.adapters.high_resolution.resized` does along each axis of square maps, as a matrix (result, side)."""
    pixels = torch.eye(side)[None]
    if result > side:
        return F.interpolate(pixels, result, mode="linear", align_corners=False)[0].T.contiguous()
    return F.adaptive_avg_pool1d(pixels, result)[0].T.contiguous()


class ExportableAttention(LeanAttention):
    """SAM's attention with its maps in parts. Parameters and results are segment_anything's `Attention`'s."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each grid of tokens: (B, H, W, C) -> (B, H, W, C)."""
        batch, rows, columns = x.shape[0], int(x.shape[1]), int(x.shape[2])
        q, k, v = self.qkv(x).view(batch, rows * columns, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        rel_h, rel_w = self._relative_positions(q, rows, columns)
        scaled_q, turned_k = q * self.scale, k.transpose(-2, -1)
        parts = []
        for first in range(0, rows * columns, MOST_QUERIES):
            part = slice(first, first + MOST_QUERIES)
            logits = (scaled_q[:, :, part] @ turned_k).unflatten(-1, (rows, columns))  # (B, heads, queries, H, W)
            logits = logits + rel_h[:, :, part, :, None] + rel_w[:, :, part, None, :]
            parts.append(logits.flatten(-2).softmax(dim=-1) @ v)
        return self.proj(torch.cat(parts, dim=2).transpose(1, 2).reshape(batch, rows, columns, -1))


class ExportableBlock(Block):
    """SAM's transformer block, whose batch size stays free at export. Parameters and results are `Block`'s."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)"""
        attended = self.norm1(x)
        if self.window_size == 0:
            attended = self.attn(attended)
        else:
            batch, height, width, channels = x.shape
            windows, (padded_height, padded_width) = window_partition(attended, self.window_size)
            rows, columns = padded_height // self.window_size, padded_width // self.window_size
            # SAM's own window_unpartition finds the batch size by a division, which becomes a constant at export.
            grid = self.attn(windows).view(batch, rows, columns, self.window_size, self.window_size, channels)
            grid = grid.permute(0, 1, 3, 2, 4, 5).reshape(batch, padded_height, padded_width, channels)
            attended = grid[:, :height, :width]
        x = x + attended
        return x + self.mlp(self.norm2(x))


class ExportableSegmenter(nn.Module):
    """A segmenter in eval mode as a pure function of uint8 images; nothing of the segmenter given is changed.

    Args:
        segmenter: any method, in float32.
        image_size: S, the side of image and mask, a multiple of 8.
    """

    def __init__(self, segmenter: Segmenter, image_size: int) -> None:
        super().__init__()
        segmenter = copy.deepcopy(segmenter).requires_grad_(False).eval()
        self.image_size = image_size
        self.resize = FixedResize(image_size, segmenter.encoder_size)
        self.segmenter = segmenter
        self.high_frequency: nn.Module | None = None
        self.adapter: nn.Module | None = None
        if segmenter.conv_adapter is not None:
            if segmenter.design.high_frequency:
                self.high_frequency = FixedHighFrequency(image_size)
            self.adapter = FoldedConvAdapter(segmenter.conv_adapter, image_size)
            segmenter.conv_adapter = None
        encoder = segmenter.image_encoder
        if isinstance(encoder, ImageEncoderViT | SamAdapterEncoder):
            for block in encoder.blocks:
                # These differ in `forward` alone, as in attention.py.
                block.__class__ = ExportableBlock
                block.attn.__class__ = ExportableAttention
        if isinstance(encoder, SamAdapterEncoder):
            encoder.high_frequency = FixedHighFrequency(segmenter.encoder_size)

    def forward(self, images: Tensor) -> Tensor:
        """RGB (B, S, S, 3) uint8 -> mask logits (B, 1, S, S)."""
        pixels = images.permute(0, 3, 1, 2).float()
        inputs = normalise_for_encoder(self.resize(pixels), self.segmenter.pixel_mean, self.segmenter.pixel_std)
        embeddings = self.segmenter.image_encoder(inputs)
        if self.segmenter.projection is not None:
            embeddings = self.segmenter.projection(embeddings)
        maps: tuple[Tensor, ...] = ()
        if self.adapter is not None and self.segmenter.adapter_gate is not None:
            details = torch.zeros_like(pixels) if self.high_frequency is None else self.high_frequency(pixels)
            correction, maps = self.adapter(torch.cat((pixels, details), dim=1))
            embeddings = self.segmenter.adapter_gate(embeddings, correction)
        return self.segmenter.decode(embeddings, maps, (self.image_size, self.image_size))
