"""SAM's attention, exact, without the matrix of all queries by all keys (4096 x 4096 for every head and image).

SAM adds to every logit a bias that depends on the query and on the key's row and column:

    logit(q, k) = scale * q.k + rel_h(q)[row of k] + rel_w(q)[column of k]

Appending rel_h(q) and rel_w(q) to the scaled query, and the one-hot row and column of the key to the key, makes this
one dot product, which PyTorch's fused attention kernels compute block by block:

    query' = [scale * q | rel_h(q) | rel_w(q)]      key' = [k | one-hot row | one-hot column]

The same function as segment_anything's `Attention`, with the same parameters.
Source: Li et al., "MViTv2", CVPR 2022, section 4.1 (decomposed relative positions); docs/METHOD.md.
"""

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor

# Without gradient, the bias of up to this many tokens (16 x 16; SAM's windows have 14 x 14) goes to the kernel as it
# is: for SAM's windows that took 1.1 to 1.3 times less time on CPU cores, and a fifth less memory, than longer queries
# and keys. With gradient it took the same time, and PyTorch would store attention maps, in float32 even for bfloat16.
MOST_TOKENS_WITH_BIAS = 256
# Fused CUDA kernels want a head width that is a multiple of 8.
WIDTH_MULTIPLE = 8


class LeanAttention(Attention):
    """Multi-head attention with decomposed relative positions that keeps no attention maps.

    Parameters, state-dict names and results are those of segment_anything's `Attention`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each grid of tokens: (B, H, W, C) -> (B, H, W, C).

        Works for any H and W: relative positions are interpolated as in the parent class.
        """
        batch, rows, columns, _ = x.shape
        # (B, H*W, 3*C) -> three views (B, heads, H*W, C/heads) of one tensor
        q, k, v = self.qkv(x).view(batch, rows * columns, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        if not self.use_rel_pos:
            attended = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        else:
            rel_h, rel_w = self._relative_positions(q, rows, columns)
            if rows * columns <= MOST_TOKENS_WITH_BIAS and not rel_h.requires_grad:
                bias = (rel_h.unsqueeze(-1) + rel_w.unsqueeze(-2)).flatten(-2)  # (B, heads, H*W, H*W)
                attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
            else:
                attended = attend_with_positions(q * self.scale, k, v, rel_h, rel_w)
        return self.proj(attended.transpose(1, 2).reshape(batch, rows, columns, -1))

    def _relative_positions(self, q: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Bias of every query for each row and for each column of keys: (B, heads, H*W, H) and (B, heads, H*W, W)."""
        grid = q.unflatten(2, (rows, columns))  # not scaled: SAM's positions see the query as it is
        rel_h = torch.einsum("bnhwc,hkc->bnhwk", grid, get_rel_pos(rows, rows, self.rel_pos_h))
        rel_w = torch.einsum("bnhwc,wkc->bnhwk", grid, get_rel_pos(columns, columns, self.rel_pos_w))
        return rel_h.flatten(2, 3), rel_w.flatten(2, 3)


def attend_with_positions(scaled_q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """softmax(scaled_q @ k.T + rel_h[row of key] + rel_w[column of key]) @ v, without the matrix.

    Args:
        scaled_q, k, v: (B, heads, H*W, D); tokens in the order row, column.
        rel_h: (B, heads, H*W, H), each query's bias for the rows.
        rel_w: (B, heads, H*W, W), each query's bias for the columns.

    Returns:
        (B, heads, H*W, D)
    """
    rows, columns, width = rel_h.shape[-1], rel_w.shape[-1], v.shape[-1]
    padding = -(width + rows + columns) % WIDTH_MULTIPLE
    one_hot_row = torch.eye(rows, dtype=k.dtype, device=k.device).repeat_interleave(columns, dim=0)
    one_hot_column = torch.eye(columns, dtype=k.dtype, device=k.device).repeat(rows, 1)
    position = F.pad(torch.cat([one_hot_row, one_hot_column], dim=-1), (0, padding)).expand(*k.shape[:2], -1, -1)
    zeros = scaled_q.new_zeros(1).expand(*scaled_q.shape[:-1], padding)
    long_q = torch.cat([scaled_q, rel_h, rel_w, zeros], dim=-1)
    long_k = torch.cat([k, position], dim=-1)
    # The fused kernels want values as wide as queries; with narrower ones PyTorch would build the full matrix.
    wide_v = F.pad(v, (0, long_q.shape[-1] - width))
    return F.scaled_dot_product_attention(long_q, long_k, wide_v, scale=1.0)[..., :width]


def use_lean_attention(encoder: ImageEncoderViT) -> None:
    """Let every block of an image encoder compute its attention leanly, in place; parameters stay the same objects."""
    _set_attention_class(encoder, LeanAttention)


def use_plain_attention(encoder: ImageEncoderViT) -> None:
    """Undo `use_lean_attention`: segment_anything's own attention, to compare with."""
    _set_attention_class(encoder, Attention)


def _set_attention_class(encoder: ImageEncoderViT, attention_class: type[Attention]) -> None:
    for block in encoder.blocks:
        # The two classes differ in `forward` alone, so that a module can change between them and keep its parameters,
        # hooks, mode and device.
        assert type(block.attn) in (Attention, LeanAttention), type(block.attn)
        block.attn.__class__ = attention_class
