"""SAM-Adapter, the baseline: small layers *inside* the frozen image encoder.

    tune = HFC_tune(patches of the high-frequency component) + patch_embed_tune(patch embedding)     (B, N, N, 192)
    x = patch embedding + positions
    x = x + up(gelu(down_0(tune)));  for every block i = 1..depth:  x = block_i(x) + up(gelu(down_i(tune)))
    neck

Gradients flow through every block of the encoder, so all of its activations are kept: the memory that CAD saves. With
gradient checkpointing only each block's input is kept, and the block runs once more in backward.
Parameter names are the original's. Source: Chen et al., "SAM-Adapter", ICCVW 2023; docs/METHOD.md.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cad.adapters.high_frequency import high_frequency


class DownProjection(nn.Module):
    """One block's own layer, 192 -> 32. A module of its own only to carry the original's parameter name."""

    def __init__(self, tune_width: int, hidden_width: int) -> None:
        super().__init__()
        self.down_projection = nn.Linear(tune_width, hidden_width)

    def forward(self, tune: Tensor) -> Tensor:
        return F.gelu(self.down_projection(tune))


class SamAdapterEncoder(nn.Module):
    """SAM's image encoder with the adapter inserted; it takes over the parts of `encoder`, under the same names.

    Args:
        encoder: SAM's image encoder.
        tune_width: width of the tuned features; 192 for every size of ViT.
        hidden_width: width between the down and up projections.
        grad_checkpointing: keep only each block's input for backward and run the block again there; same results.
    """

    def __init__(
        self,
        encoder: ImageEncoderViT,
        tune_width: int = 192,
        hidden_width: int = 32,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = grad_checkpointing
        self.high_frequency: Callable[[Tensor], Tensor] = high_frequency  # replaced for export
        self.img_size = encoder.img_size
        self.patch_embed = encoder.patch_embed
        self.pos_embed = encoder.pos_embed
        self.blocks = encoder.blocks
        self.neck = encoder.neck

        projection = encoder.patch_embed.proj
        self.patch_size = projection.kernel_size[0]
        embed_dim = projection.out_channels
        self.HFC_tune = nn.Linear(projection.in_channels * self.patch_size**2, tune_width)
        self.patch_embed_tune = nn.Linear(embed_dim, tune_width)
        self.task_adapter_blocks = nn.ModuleList(
            DownProjection(tune_width, hidden_width) for _ in range(len(encoder.blocks) + 1)
        )
        self.task_adapter_up = nn.Linear(hidden_width, embed_dim)
        for layer in self.adapter_layers():
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=0.02)
                    nn.init.zeros_(module.bias)

    def adapter_layers(self) -> list[nn.Module]:
        """The inserted layers: all that is trained in this encoder."""
        return [self.HFC_tune, self.patch_embed_tune, self.task_adapter_blocks, self.task_adapter_up]

    def forward(self, x: Tensor) -> Tensor:
        """x: normalised encoder input (B, 3, E, E) -> image embedding (B, C, E/16, E/16)."""
        # (B, 3, E, E) -> (B, 768, N*N), each column one patch in the order channel, row, column
        patches = F.unfold(self.high_frequency(x), self.patch_size, stride=self.patch_size)
        hidden = self.patch_embed(x)  # (B, N, N, embed_dim)
        if self.pos_embed is not None:
            hidden = hidden + self.pos_embed
        batch, rows, columns, _ = hidden.shape
        tune = self.HFC_tune(patches.transpose(1, 2)).view(batch, rows, columns, -1) + self.patch_embed_tune(hidden)
        hidden = hidden + self.task_adapter_up(self.task_adapter_blocks[0](tune))
        for block, adapter in zip(self.blocks, self.task_adapter_blocks[1:], strict=True):
            hidden = self._run_block(block, hidden) + self.task_adapter_up(adapter(tune))
        return self.neck(hidden.permute(0, 3, 1, 2))

    def _run_block(self, block: nn.Module, hidden: Tensor) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            # Blocks draw no random numbers, so there is no random state to keep.
            return checkpoint(block, hidden, use_reentrant=False, preserve_rng_state=False)
        return block(hidden)
