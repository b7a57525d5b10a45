"""How much of the adapter's correction the embedding gets.

| gate       | added to the embedding                                                        | trained         |
|------------|-------------------------------------------------------------------------------|-----------------|
| `fixed`    | scale * correction, as published                                              | nothing         |
| `scalar`   | weight * correction                                                           | one number      |
| `channel`  | weight * correction                                                           | one a channel   |
| `relative` | scale * the standard deviation of the image's own embedding * correction      | nothing         |
"""

import torch
from torch import Tensor, nn


class AdapterGate(nn.Module):
    """Adds the scaled correction to the embedding.

    Args:
        channels: C, the width of the embedding.
        kind: one of `cad.adapters.adapter_design.GATES`.
        scale: the factor, or where trained ones start.
    """

    weight: nn.Parameter | None  # (1, 1, 1) or (C, 1, 1)

    def __init__(self, channels: int, kind: str, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.is_relative = kind == "relative"
        numbers = {"scalar": 1, "channel": channels}.get(kind, 0)
        self.weight = nn.Parameter(torch.full((numbers, 1, 1), scale)) if numbers else None

    def forward(self, embeddings: Tensor, correction: Tensor) -> Tensor:
        """embeddings and correction (B, C, G, G), the latter in (-1, 1) -> (B, C, G, G)."""
        if self.weight is not None:
            return embeddings + self.weight * correction
        if self.is_relative:
            # tanh bounds the correction: in units of the embedding, the scale means the same for every encoder.
            correction = embeddings.std(dim=(1, 2, 3), keepdim=True) * correction
        return embeddings + self.scale * correction
