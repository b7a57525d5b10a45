"""The lean execution of the convolutional adapter: the plain one's function and gradients in a fraction of its memory.

    image, high frequency, ones (7, H, W)
        |  patches of 3x3 taps, 63 values; BatchNorm's statistics follow from their mean and covariance
        |  one linear map: conv_up, conv_block1.conv and its BatchNorm, folded      \\  made again in the backward pass,
        x1 (H/2, W/2, C)                                                            /  a band of rows at a time
        |  conv_block2.conv
        y2 (H/2, W/2, C)            kept; the backward pass turns it into its own gradient, in place
        |  BatchNorm, LeakyReLU, + x1, pooling, in bands of rows
        x2 (H/4, W/4, C)            kept; overwritten by its gradient as well
        |  conv_block3.conv
        y3 (H/4, W/4, C)            made again
        |  as above
        x3 (H/8, W/8, C)

The maps of the high-resolution path are made from x1 and x2 while these are there, and carry their gradients to them
in the same bands.

Why it is exact: a convolution of a 1x1 convolution is one convolution, and a channel of ones carries conv_up's bias, so
that the zero padding between the two stays zero. The mean and variance of a linear map follow from the mean and
covariance of its input. Pooling and conv_up commute, so the shortcut pools 7 channels instead of C.

All of it works on one image at a time in the layout (H, W, C), in bands of rows; see lean_features.py and
lean_batch_norm.py.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cad.adapters.conv_block import NEGATIVE_SLOPE
from cad.adapters.lean.batch_norm import (
    Normalisation,
    bands_of,
    fold,
    gradient_sums,
    normalisation,
    output_gradient,
    parameter_gradients,
    row_bands,
    statistics_dtype,
    sums_everywhere,
    uses_batch_statistics,
)
from cad.adapters.lean.features import (
    DILATION,
    ProjectionGradient,
    add_pool_gradient,
    channels_last,
    convolve,
    grid_gradient,
    pool,
    pool_to_grid,
    pooled_activation_gradient,
    project,
    turned,
    turned_weight_gradient,
    with_halo,
)
from cad.adapters.lean.patches import CENTRE_OF_ONES, PATCH, input_moments, padded_image, patches_of

if TYPE_CHECKING:
    from cad.adapters.conv_adapter import ConvAdapter


def lean_conv_adapter(adapter: "ConvAdapter", inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Compute the adapter's correction and maps leanly; gradients reach every parameter, and can be taken once.

    Args:
        adapter: holds the parameters and buffers; BatchNorm's running statistics are updated in training.
        inputs: (B, 6, H, W), image and high frequency in 0..255, H and W multiples of 8. No gradient reaches them.

    Returns:
        The correction (B, C, G, G) in (-1, 1), and the maps (B, C/8, H/2, W/2) and (B, C/4, H/4, W/4) of a
        high-resolution path, if there is one; in the parameters' type or autocast's.

    Raises:
        ValueError: the inputs' size is not a multiple of 8, or they require a gradient.
    """
    height, width = inputs.shape[-2:]
    if height % 8 or width % 8:
        raise ValueError(
            f"inputs of {height}x{width} pixels: the lean execution needs multiples of 8, use execution='plain'"
        )
    if inputs.requires_grad and torch.is_grad_enabled():
        raise ValueError("inputs require a gradient, which the lean execution does not compute: use execution='plain'")
    device, dtype = inputs.device.type, adapter.conv_up.weight.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        first = folded_first_block(adapter, inputs, dtype)
        parameters = [
            parameter
            for block in (adapter.conv_block2, adapter.conv_block3)
            for parameter in (block.conv.weight, block.conv.bias, block.bn.weight, block.bn.bias)
        ]
        projections = [projection.weight for projection in adapter.projections()]
        correction, *maps = LeanBlocks.apply(adapter, inputs, dtype, *first, *parameters, *projections)
        return correction, maps


def folded_first_block(adapter: "ConvAdapter", inputs: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """conv_up, conv_block1.conv and its BatchNorm as one linear map of patches, computed with autograd.

    Returns:
        The map (C, 63), and the shortcut's weight (C, 7): conv_up with its bias as a column.
    """
    block, up = adapter.conv_block1, adapter.conv_up
    statistics = statistics_dtype(dtype)
    assert up.bias is not None and block.conv.bias is not None
    shortcut = torch.cat((up.weight[:, :, 0, 0], up.bias[:, None]), dim=1).to(statistics)
    weight = torch.einsum("ckyx,ki->ciyx", block.conv.weight.to(statistics), shortcut).flatten(1)
    moments = input_moments(inputs, dtype) if uses_batch_statistics(block.bn) else None
    weight, bias = fold(block.bn, weight.double(), block.conv.bias.double(), moments)
    # The centre tap of the channel of ones is one at every pixel, so its weight carries the map's bias.
    return weight + F.pad(bias[:, None], (CENTRE_OF_ONES, PATCH - CENTRE_OF_ONES - 1)), shortcut


class FirstBlock(NamedTuple):
    """conv_up and block 1, folded, in the type that features are computed in."""

    weight: Tensor  # (C, 63)
    shortcut: Tensor  # (C, 7)

    def activation(self, patches: Tensor) -> Tensor:
        """Patches (63, N) -> LeakyReLU of the normalised convolution (N, C)."""
        return F.leaky_relu_(patches.T @ self.weight.T, NEGATIVE_SLOPE)

    def bands(self, padded: Tensor) -> Iterator[tuple[int, int]]:
        """Bands of rows of this block's output, cut so that its activation, of twice the size, fits a band."""
        height, width = padded.shape[-2] - 2 * DILATION, padded.shape[-1] - 2 * DILATION
        return row_bands(height // 2, 2 * width * len(self.weight))

    def output(self, activation: Tensor, pooled_image: Tensor) -> Tensor:
        """Pool the activation and add the shortcut; pooled_image (7, rows, W/2) -> (rows, W/2, C)."""
        _, rows, width = pooled_image.shape
        pooled = pool(activation.view(2 * rows, 2 * width, -1))
        return pooled.add_((pooled_image.flatten(1).T @ self.shortcut.T).view_as(pooled))

    def __call__(self, padded: Tensor) -> Tensor:
        """The whole output of one image, (H/2, W/2, C)."""
        return torch.cat(
            [
                self.output(self.activation(patches_of(padded, 2 * top, 2 * bottom)), pooled_rows(padded, top, bottom))
                for top, bottom in self.bands(padded)
            ]
        )


def pooled_rows(padded: Tensor, top: int, bottom: int) -> Tensor:
    """Rows top..bottom of the image, pooled 2x2: (7, bottom - top, W/2)."""
    rows = slice(DILATION + 2 * top, DILATION + 2 * bottom)
    return F.avg_pool2d(padded[:, rows, DILATION:-DILATION], 2)


def add_activation(x: Tensor, y: Tensor, norm: Normalisation) -> None:
    """x += pool(LeakyReLU(norm(y))), in bands; x: (H/2, W/2, C), y: (H, W, C)."""
    for top, bottom in bands_of(y):
        x[top // 2 : bottom // 2] += pool(F.leaky_relu_(norm(y[top:bottom]), NEGATIVE_SLOPE)).to(x.dtype)


def outputs_to_gradients(
    outputs: list[Tensor], result_gradient: Callable[[int, int, int], Tensor], norm: Normalisation
) -> tuple[Tensor, ...]:
    """Overwrite a block's convolution outputs (H, W, C) by their gradients, given those of the block's results.

    Args:
        outputs: per image, what `norm` was made from.
        result_gradient: (image number, top, bottom) -> these rows of the gradient of the block's result (H/2, W/2, C).

    Returns:
        The gradients of the convolution's bias and of BatchNorm's weight and bias, (C,) each.
    """

    def terms(i: int, top: int, bottom: int) -> tuple[Tensor, Tensor]:
        band = outputs[i][top:bottom]
        gradient = result_gradient(i, top // 2, bottom // 2).to(norm.mean.dtype)
        return pooled_activation_gradient(gradient, norm(band)), band - norm.mean

    bands = [(i, top, bottom) for i, output in enumerate(outputs) for top, bottom in bands_of(output)]
    sums = gradient_sums((terms(*band) for band in bands), len(norm.mean), norm.mean.device)
    everywhere = sums_everywhere(sums)
    for i, top, bottom in bands:
        outputs[i][top:bottom] = output_gradient(norm, everywhere, *terms(i, top, bottom))
    return parameter_gradients(norm, sums)


class LeanBlocks(torch.autograd.Function):
    """From the inputs to the adapter's outputs: the three blocks, given block 1 as a linear map of patches."""

    @staticmethod
    def forward(
        ctx: Any, adapter: "ConvAdapter", inputs: Tensor, dtype: torch.dtype, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        """parameters: FirstBlock's two, then weight, bias, BatchNorm's weight and bias of blocks 2 and 3, then the
        weights of the projections of x1 and x2, if there are any."""
        first = FirstBlock(*(parameter.to(dtype) for parameter in parameters[:2]))
        weight2, weight3 = channels_last(parameters[2], dtype), channels_last(parameters[6], dtype)
        projections = [weight.flatten(1).to(dtype) for weight in parameters[10:]]
        maps = empty_maps(inputs, projections)
        y2, x2, totals = [], [], []
        for i, image in enumerate(inputs):
            x1 = first(padded_image(image, dtype))
            if maps:
                maps[0][i] = project(x1, projections[0])
            totals.append(pool_to_grid(x1, adapter.grid))
            x2.append(pool(x1))
            y2.append(convolve(x1, weight2))
            del x1
        norm2 = normalisation(adapter.conv_block2.bn, parameters[3], y2, dtype)
        for i, (x, y) in enumerate(zip(x2, y2, strict=True)):
            add_activation(x, y, norm2)
            if maps:
                maps[1][i] = project(x, projections[1])

        y3 = [convolve(x, weight3) for x in x2]
        norm3 = normalisation(adapter.conv_block3.bn, parameters[7], y3, dtype)
        for total, x, y in zip(totals, x2, y3, strict=True):
            x3 = pool(x)
            add_activation(x3, y, norm3)
            total += pool_to_grid(x, adapter.grid)
            total += pool_to_grid(x3, adapter.grid)

        none = parameters[0].new_empty(0, len(parameters[0]), adapter.grid, adapter.grid, dtype=dtype)
        output = torch.stack([total.permute(2, 0, 1) for total in totals]).tanh_() if totals else none
        ctx.norm2, ctx.norm3 = norm2, norm3
        ctx.save_for_backward(inputs, output, *y2, *x2, *parameters)
        return output, *maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *grad_maps: Tensor) -> tuple[Tensor | None, ...]:
        inputs, output, *saved = ctx.saved_tensors
        batch = len(inputs)
        y2, x2, parameters = saved[:batch], saved[batch : 2 * batch], saved[2 * batch :]
        projections = [
            ProjectionGradient(weight.flatten(1).to(output.dtype), gradient)
            for weight, gradient in zip(parameters[10:], grad_maps, strict=True)
        ]
        of_x1, of_x2 = projections or (None, None)
        grad_totals = [
            torch.ops.aten.tanh_backward(gradient, result).permute(1, 2, 0).contiguous()
            for gradient, result in zip(grad_output, output, strict=True)
        ]
        height, width = inputs.shape[-2] // 4, inputs.shape[-1] // 4
        weight3 = parameters[6].to(output.dtype)
        grads3 = third_block_backward(x2, weight3, ctx.norm3, grad_totals, height, width, of_x2)
        grads2 = outputs_to_gradients(y2, lambda i, top, bottom: x2[i][top:bottom], ctx.norm2)
        first = FirstBlock(*(parameter.to(output.dtype) for parameter in parameters[:2]))
        grads1, grad_weight2 = first_block_backward(first, inputs, parameters[2], y2, x2, grad_totals, of_x1)
        grads = [*grads1, grad_weight2, *grads2, *grads3, *(one.of_weight for one in projections)]
        return None, None, None, *(g.to(p.dtype).view_as(p) for g, p in zip(grads, parameters, strict=True))


def empty_maps(inputs: Tensor, projections: list[Tensor]) -> list[Tensor]:
    """Room for the maps of x1 (B, c, H/2, W/2) and x2 (B, c, H/4, W/4), given weights (c, C) in the maps' type."""
    batch, _, height, width = inputs.shape
    return [
        weight.new_empty(batch, len(weight), height // reduction, width // reduction)
        for weight, reduction in zip(projections, (2, 4), strict=False)
    ]


def third_block_backward(
    x2: list[Tensor],
    weight: Tensor,
    norm: Normalisation,
    grad_totals: list[Tensor],
    height: int,
    width: int,
    projection: ProjectionGradient | None,
) -> tuple[Tensor, ...]:
    """Overwrite every image's x2 (height, width, C) by its gradient; returns the gradients of block 3's parameters."""
    weight = channels_last(weight, weight.dtype)
    back = turned(weight)
    grad_weight = torch.zeros_like(back, dtype=norm.mean.dtype)

    def grad_x3(i: int, top: int, bottom: int) -> Tensor:
        return grid_gradient(grad_totals[i], height // 2, width // 2, top, bottom)

    y3 = [convolve(x, weight) for x in x2]
    grads = outputs_to_gradients(y3, grad_x3, norm)
    for i, (x, grad_y3) in enumerate(zip(x2, y3, strict=True)):
        for top, bottom in bands_of(x):
            halo = with_halo(grad_y3, top, bottom)
            grad_weight += turned_weight_gradient(halo, x[top:bottom])
            gradient = convolve(halo, back, row_padding=0)
            add_pool_gradient(gradient, grad_x3(i, top // 2, bottom // 2))
            gradient += grid_gradient(grad_totals[i], height, width, top, bottom)
            if projection:
                projection.carry_back(i, top, x[top:bottom], gradient)
            x[top:bottom] = gradient
    return turned(grad_weight), *grads


def first_block_backward(
    first: FirstBlock,
    inputs: Tensor,
    weight: Tensor,
    grad_y2: list[Tensor],
    grad_x2: list[Tensor],
    grad_totals: list[Tensor],
    projection: ProjectionGradient | None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Make block 1's output again, band by band, and take the gradient through block 2's convolution and block 1.

    Returns:
        The gradients of FirstBlock's two tensors, and of the weight of block 2's convolution.
    """
    dtype = first.weight.dtype
    statistics = statistics_dtype(dtype)
    back = turned(channels_last(weight, dtype))
    grad_back = torch.zeros_like(back, dtype=statistics)
    grads = [torch.zeros_like(tensor, dtype=statistics) for tensor in first]
    height, width, channels = inputs.shape[-2] // 2, inputs.shape[-1] // 2, len(first.weight)
    for i, (image, grad_y, grad_x, grad_total) in enumerate(zip(inputs, grad_y2, grad_x2, grad_totals, strict=True)):
        padded = padded_image(image, dtype)
        for top, bottom in first.bands(padded):
            patches, pooled_image = patches_of(padded, 2 * top, 2 * bottom), pooled_rows(padded, top, bottom)
            activation = first.activation(patches)
            halo = with_halo(grad_y, top, bottom)
            x1 = first.output(activation, pooled_image)
            grad_back += turned_weight_gradient(halo, x1)
            gradient = convolve(halo, back, row_padding=0)
            add_pool_gradient(gradient, grad_x[top // 2 : bottom // 2])
            gradient += grid_gradient(grad_total, height, width, top, bottom)
            if projection:
                projection.carry_back(i, top, x1, gradient)

            grads[0] += pooled_activation_gradient(gradient, activation).view(-1, channels).T @ patches.T
            grads[1] += gradient.view(-1, channels).T @ pooled_image.flatten(1).T
    return tuple(grads), turned(grad_back)
