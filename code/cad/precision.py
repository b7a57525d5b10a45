"""The precision that a model computes in: autocast, half-precision frozen weights, and the gradient scaler of fp16."""

from contextlib import AbstractContextManager

import torch
from torch import nn

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_precision(name: str, device: torch.device) -> str:
    """The precision asked for, or fp32 where the device cannot; a fallback is printed with its reason."""
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        print("bf16: not supported by this GPU, using fp32")
        return "fp32"
    return name


def autocast(name: str, device: torch.device) -> AbstractContextManager[None]:
    """Run what is inside in that precision where PyTorch considers it safe; with fp32 as it is."""
    return torch.autocast(device.type, dtype=PRECISIONS[name], enabled=name != "fp32")


def halve_frozen_weights(module: nn.Module, name: str) -> None:
    """Keep the frozen linear and convolution weights of a module in that precision, in place.

    Under `autocast` the results stay the same, to the bit: it would make the same copies of the weights at every use.
    """
    if name != "fp32":
        for part in module.modules():
            if isinstance(part, nn.Linear | nn.Conv2d) and not any(p.requires_grad for p in part.parameters()):
                part.to(PRECISIONS[name])


def gradient_scaler(name: str, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss for fp16, whose small gradients would become 0; does nothing otherwise."""
    return torch.amp.GradScaler(device.type, enabled=name == "fp16")
