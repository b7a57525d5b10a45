"""BatchNorm for the lean adapter: its statistics, its folding into a convolution and its backward, in bands of rows.

An image's features are a contiguous tensor (H, W, C): a band of rows is then one block of memory, and a statistic of
every channel is a vector (C,). `product_moments`, `output_moments` and `gradient_sums` are the places where sums over
the batch are formed, and with several processes over their batches together; a process may have no image at all.

Source: Ioffe and Szegedy, "Batch Normalization", arXiv 1502.03167, algorithm 1 and section 3; docs/METHOD.md.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cad.distributed import processes, sum_over_processes

# 8 MiB in float32: small beside the 64 MiB of one image's features (C = 256, 512 pixels), large enough that a
# convolution over the band keeps every core busy.
BAND_ELEMENTS = 2**21


def row_bands(height: int, row_elements: int) -> Iterator[tuple[int, int]]:
    """Cut `height` (even) rows into bands (top, bottom) of an even number of rows and about BAND_ELEMENTS elements."""
    rows = max(BAND_ELEMENTS // row_elements // 2 * 2, 2)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def bands_of(features: Tensor) -> Iterator[tuple[int, int]]:
    """The bands of rows of one image's features (H, W, C)."""
    return row_bands(features.shape[0], features[0].numel())


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Statistics of 16-bit features are kept in float32, as nn.BatchNorm2d does."""
    return torch.promote_types(dtype, torch.float32)


class Moments(NamedTuple):
    """Number of samples, their mean (D,), and their biased covariance (D, D) or variance (D,); float64."""

    samples: int
    mean: Tensor
    spread: Tensor


def product_moments(products: Tensor, ones: int, samples: int) -> Moments:
    """Mean and covariance of D values, given the sums of their products over this process's samples.

    In float64 a covariance of values of about 1 needs no centring first: rounding stays at 1e-16 of the values, far
    below BatchNorm's epsilon of 1e-5. So one pass over the images is enough.

    Args:
        products: (D, D), float64.
        ones: which of the values is 1 in every sample.
        samples: how many.
    """
    samples = count_everywhere(samples, products.device)
    products = sum_over_processes(products) / samples
    mean = products[ones]
    return Moments(samples, mean, products - torch.outer(mean, mean))


def count_everywhere(count: int, device: torch.device) -> int:
    """A number of samples, summed over the processes that train together."""
    return int(sum_over_processes(torch.tensor(count, device=device))) if processes() > 1 else count


def output_moments(outputs: list[Tensor], channels: int, dtype: torch.dtype, device: torch.device) -> Moments:
    """Mean and variance of every channel over all images (H, W, C) and pixels, computed in `dtype`.

    Two passes: the second, around the rounded mean of the first, keeps the digits of both where the mean is large.
    """
    count = count_everywhere(sum(output.shape[0] * output.shape[1] for output in outputs), device)

    def average(terms: Callable[[Tensor], Iterable[Tensor]], number: int) -> Tensor:
        sums = [
            torch.stack([term.sum(dim=(0, 1)) for term in terms(output[top:bottom].to(dtype))]).double()
            for output in outputs
            for top, bottom in bands_of(output)
        ]
        none = torch.zeros(number, channels, dtype=torch.float64, device=device)
        return sum_over_processes(torch.stack(sums).sum(dim=0) if sums else none) / count

    def around_centre(band: Tensor) -> Iterator[Tensor]:
        band = band - centre
        yield band
        yield band.square_()

    (centre,) = average(lambda band: [band], 1).to(dtype)
    rest, square = average(around_centre, 2)
    return Moments(count, centre + rest, square - rest.square())


def uses_batch_statistics(norm: nn.BatchNorm2d) -> bool:
    """Whether `norm` normalises with the batch's statistics, as in training, or with its running ones."""
    return norm.training or norm.running_mean is None


@torch.no_grad()
def update_running_statistics(norm: nn.BatchNorm2d, moments: Moments) -> None:
    """Move the running statistics as nn.BatchNorm2d does; `moments` are those of the convolution's biased output."""
    if not norm.training or norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    # Without a momentum, nn.BatchNorm2d keeps the plain average of all batches.
    share = norm.num_batches_tracked.double().reciprocal() if norm.momentum is None else norm.momentum
    unbiased = moments.spread * (moments.samples / (moments.samples - 1))
    for running, value in ((norm.running_mean, moments.mean), (norm.running_var, unbiased)):
        running.copy_(running.double() * (1 - share) + value * share)


def fold(norm: nn.BatchNorm2d, weight: Tensor, bias: Tensor, moments: Moments | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of the linear map of patches that computes norm(weight @ patch + bias).

    Statistics of a linear map follow from its input's: mean = weight @ m + bias, variance = weight S weight'. Computed
    with autograd, so gradients reach the weights through the map and through its statistics.

    Args:
        norm: the BatchNorm that follows; its running statistics are updated in training.
        weight: (C, D), float64.
        bias: (C,), float64.
        moments: of the patches, from `product_moments`; None where `norm` uses its running statistics.
    """
    if moments is None:
        assert norm.running_mean is not None and norm.running_var is not None
        mean, variance = norm.running_mean.double(), norm.running_var.double()
    else:
        mean = weight @ moments.mean + bias
        variance = ((weight @ moments.spread) * weight).sum(dim=1)
        update_running_statistics(norm, Moments(moments.samples, mean.detach(), variance.detach()))
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return weight * scale[:, None], norm.bias + (bias - mean) * scale


class Normalisation(NamedTuple):
    """BatchNorm of a convolution's output y, which is kept without bias: z = (y - mean) * scale + shift, all (C,)."""

    mean: Tensor
    inverse_std: Tensor
    scale: Tensor
    shift: Tensor
    samples: int | None  # samples that the statistics were computed from; None where they are the running ones

    def __call__(self, band: Tensor) -> Tensor:
        """Normalise a band (rows, W, C), in the statistics' type."""
        return torch.addcmul(self.shift, band - self.mean, self.scale)


def normalisation(norm: nn.BatchNorm2d, bias: Tensor, outputs: list[Tensor], dtype: torch.dtype) -> Normalisation:
    """The normalisation of `outputs` in `dtype`, which lack the convolution's `bias`; updates running statistics in
    training."""
    dtype = statistics_dtype(dtype)
    bias = bias.detach().double()
    count = None
    if uses_batch_statistics(norm):
        # The bias shifts the mean alone: it cancels, except in the running mean.
        count, mean, variance = output_moments(outputs, len(bias), dtype, bias.device)
        update_running_statistics(norm, Moments(count, mean + bias, variance))
    else:
        assert norm.running_mean is not None and norm.running_var is not None
        mean, variance = norm.running_mean.double() - bias, norm.running_var.double()
    inverse_std = (variance + norm.eps).rsqrt()
    scale = norm.weight.detach() * inverse_std
    shift = norm.bias.detach().to(dtype, copy=True)
    return Normalisation(mean.to(dtype), inverse_std.to(dtype), scale.to(dtype), shift, count)


class GradientSums(NamedTuple):
    """Sums over images and pixels, per channel (C,), of the gradient of z, and of it times the centred output."""

    gradient: Tensor
    product: Tensor


def gradient_sums(terms: Iterable[tuple[Tensor, Tensor]], channels: int, device: torch.device) -> GradientSums:
    """Sum bands of (gradient of z, centred output), both (rows, W, C), of the images of this process."""
    sums = [
        torch.stack((gradient.sum(dim=(0, 1)), (gradient * centred).sum(dim=(0, 1)))).double()
        for gradient, centred in terms
    ]
    none = torch.zeros(2, channels, dtype=torch.float64, device=device)
    return GradientSums(*(torch.stack(sums).sum(dim=0) if sums else none))


def sums_everywhere(sums: GradientSums) -> GradientSums:
    """The sums over the images of all processes that train together."""
    return GradientSums(*sum_over_processes(torch.stack(sums)))


def parameter_gradients(norm: Normalisation, sums: GradientSums) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the convolution's bias and of BatchNorm's weight and bias, (C,) each.

    `sums` are those of this process: the gradients are summed over processes with all others.
    """
    # In training the mean removes the convolution's bias, so its gradient is zero.
    bias = torch.zeros_like(sums.gradient) if norm.samples else sums.gradient * norm.scale
    return bias, sums.product * norm.inverse_std, sums.gradient


def output_gradient(norm: Normalisation, sums: GradientSums, gradient: Tensor, centred: Tensor) -> Tensor:
    """Carry a band's gradient of z back to the convolution's output; (rows, W, C) both, overwrites its arguments.

    `sums` are those of all processes, as `norm.samples` is.
    """
    if norm.samples:
        offset = (sums.gradient / norm.samples).to(norm.mean)
        slope = (sums.product / norm.samples).to(norm.mean) * norm.inverse_std.square()
        gradient.sub_(offset).sub_(centred.mul_(slope))
    return gradient.mul_(norm.scale)
