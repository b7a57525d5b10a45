"""Proof that what is frozen stays frozen: a checksum of every parameter that training must not touch."""

import torch
from torch import Tensor, nn

_WHOLE_NUMBERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class FrozenParameters:
    """Checksums of a module's parameters that require no gradient, taken now, to be verified later."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.checksums = self._checksums()

    def _checksums(self) -> dict[str, int]:
        frozen = [(name, p) for name, p in self.module.named_parameters() if not p.requires_grad]
        return {name: checksum(parameter.detach()) for name, parameter in frozen}

    def verify(self) -> None:
        """Raise RuntimeError, a defect of this software, if one of them has changed or is trained by now."""
        now = self._checksums()
        for name, expected in self.checksums.items():
            if now.get(name) != expected:
                raise RuntimeError(f"{name} is frozen but has changed during training; nothing was saved since")


def checksum(tensor: Tensor) -> int:
    """The sum of a tensor's bits read as whole numbers, computed where the tensor is."""
    return int(tensor.contiguous().view(-1).view(_WHOLE_NUMBERS[tensor.element_size()]).sum(dtype=torch.int64))
