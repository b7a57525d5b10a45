"""The segmenter: images -> mask logits. A method is a segmenter with its own adapter; one engine trains them all.

| method        | image encoder                    | added to its embedding      | trained                    |
|---------------|----------------------------------|-----------------------------|----------------------------|
| `cad`         | frozen, no gradient              | 0.1 * ConvAdapter(image)    | adapter, mask decoder      |
| `sam_adapter` | frozen, SAM-Adapter inside       | nothing                     | adapter, mask decoder      |
| `decoder`     | frozen, no gradient              | nothing                     | mask decoder               |
| `zero_shot`   | frozen, no gradient              | nothing                     | nothing                    |

Of an encoder that is not SAM's, whose embedding has another width C' than the decoder's C, a projection is trained too.

The prompt is one box over the whole image, so its embedding is a constant of the model, kept at batch 1.
Source: arXiv 2409.15889; docs/METHOD.md.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cad.adapters.adapter_design import AdapterDesign
from cad.adapters.adapter_gate import AdapterGate
from cad.adapters.conv_adapter import ConvAdapter
from cad.adapters.conv_block import adapter_input
from cad.adapters.high_resolution import added_to_upscaling
from cad.adapters.sam_adapter import SamAdapterEncoder
from cad.encoders.sam import Sam, SamEncoder, normalise_for_encoder, resize_for_encoder
from cad.errors import UserError
from cad.options import METHODS, METHODS_INSIDE_SAM


class Segmenter(nn.Module):
    """SAM with one method's adapter. Everything is frozen by structure except the adapter and the mask decoder, and
    these too for `zero_shot`, which is SAM as it is.

    What the loss cannot reach in the mask decoder (the IoU head and the hypernetworks of the multimask outputs) is
    frozen too. Frozen modules stay in eval mode under `train()`.

    Args:
        sam: SAM's parts with their weights, or those around another encoder; the segmenter takes them over.
        method: one of `METHODS`.
        adapter_execution: for `cad`, "lean" or "plain": the same function in little memory, or as the paper writes it.
        grad_checkpointing: for `sam_adapter`, run each encoder block once more in backward to save memory.
        design: for `cad`, which convolutional adapter; the published one unless it says otherwise.

    Raises:
        UserError: the method needs SAM's own image encoder, and this is another.
    """

    image_positions: Tensor  # (1, C, G, G)
    box_prompt: Tensor  # (1, 2, C)
    dense_prompt: Tensor  # (1, C, 1, 1)

    def __init__(
        self,
        sam: Sam,
        method: str,
        adapter_execution: str = "lean",
        grad_checkpointing: bool = False,
        design: AdapterDesign | None = None,
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"method {method!r}: expected one of {', '.join(METHODS)}")
        encoder = sam.image_encoder
        if method in METHODS_INSIDE_SAM and not isinstance(encoder, SamEncoder):
            raise UserError(f"{method}: needs SAM's own image encoder, a ViT; other encoders go with cad and decoder")
        self.method = method
        # The decoder keeps 127 MiB an image for backward (SAM's own, float32). Image by image, and once more in
        # backward, it keeps that of one image only; the decoder is a small part of a step's time.
        self.checkpoint_decoder = True
        self.encoder_size: int = encoder.img_size
        self.embedding_shape = (encoder.channels, encoder.grid, encoder.grid)  # C', G, G
        self.pixel_mean, self.pixel_std = encoder.pixel_mean, encoder.pixel_std
        self.image_encoder: nn.Module = encoder
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        self.design = design or AdapterDesign()
        self.conv_adapter: ConvAdapter | None = None
        self.adapter_gate: AdapterGate | None = None
        width = sam.prompt_encoder.embed_dim
        self.projection: nn.Module | None = None
        if encoder.channels != width:  # as the neck of SAM's encoder
            self.projection = nn.Sequential(nn.Conv2d(encoder.channels, width, 1, bias=False), LayerNorm2d(width))
        if method == "cad":
            self._add_adapter(width, encoder.grid, adapter_execution)
        elif method == "sam_adapter":
            self.image_encoder = SamAdapterEncoder(encoder, grad_checkpointing=grad_checkpointing)
        self._freeze()
        self._embed_prompt()

    def _add_adapter(self, channels: int, grid: int, execution: str) -> None:
        high_resolution = self.design.adapter == "cad_hires"
        self.conv_adapter = ConvAdapter(channels, grid, execution=execution, high_resolution=high_resolution)
        self.adapter_gate = AdapterGate(channels, self.design.adapter_gate, self.design.adapter_scale)

    def _trained_modules(self) -> list[nn.Module]:
        if self.method == "zero_shot":
            return []
        modules = (self.projection, self.conv_adapter, self.adapter_gate)
        trained = [module for module in modules if module is not None]
        if isinstance(self.image_encoder, SamAdapterEncoder):
            trained += self.image_encoder.adapter_layers()
        return [*trained, self.mask_decoder]

    def _freeze(self) -> None:
        self.requires_grad_(False)
        for module in self._trained_modules():
            module.requires_grad_(True)
        self.mask_decoder.iou_prediction_head.requires_grad_(False)
        for multimask_output in self.mask_decoder.output_hypernetworks_mlps[1:]:
            multimask_output.requires_grad_(False)

    @torch.no_grad()
    def _embed_prompt(self) -> None:
        side = float(self.encoder_size)
        box = torch.tensor([[0.0, 0.0, side, side]])  # x0, y0, x1, y1; SAM adds its half pixel itself
        sparse, dense = self.prompt_encoder(points=None, boxes=box, masks=None)
        self.register_buffer("image_positions", self.prompt_encoder.get_dense_pe(), persistent=False)
        self.register_buffer("box_prompt", sparse, persistent=False)
        self.register_buffer("dense_prompt", dense[:, :, :1, :1].clone(), persistent=False)

    def train(self, mode: bool = True) -> "Segmenter":
        super().train(mode)
        for module in (self.image_encoder, self.prompt_encoder):
            module.eval()
        return self

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether the image embedding depends on no trained parameter, so that it needs no gradient."""
        return not any(parameter.requires_grad for parameter in self.image_encoder.parameters())

    def trained_state(self) -> dict[str, Tensor]:
        """Trained parameters and the buffers beside them (BatchNorm statistics), by state-dict name."""
        state = self.state_dict()
        return {name: state[name] for name in self._trained_names()}

    def _trained_names(self) -> Iterator[str]:
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield name
        if self.conv_adapter is not None:
            for name, _ in self.conv_adapter.named_buffers(prefix="conv_adapter"):
                yield name

    def trained_buffers(self) -> list[Tensor]:
        """What training changes beside parameters: BatchNorm statistics."""
        return [] if self.conv_adapter is None else list(self.conv_adapter.buffers())

    def drop_encoder(self) -> None:
        """Free a frozen encoder: from here on `forward` needs embeddings."""
        assert self.encoder_is_frozen
        self.image_encoder = nn.Identity()

    def encode(self, images: Tensor) -> Tensor:
        """Image embedding of RGB images (B, 3, S, S) in 0..255 (whole numbers) -> (B, C', G, G)."""
        return self.encode_inputs(self.encoder_inputs(images))

    def encoder_inputs(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) in 0..255 resized for the encoder, on the segmenter's device: (B, 3, E, E) uint8."""
        arrays = images.to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        resized = torch.stack([torch.from_numpy(resize_for_encoder(a, self.encoder_size).copy()) for a in arrays])
        return resized.permute(0, 3, 1, 2).to(self.image_positions.device)

    def encode_inputs(self, inputs: Tensor) -> Tensor:
        """Image embedding of images at the encoder's own size (B, 3, E, E) in 0..255 -> (B, C', G, G).

        Without gradient where the encoder is frozen.
        """
        if isinstance(self.image_encoder, nn.Identity):
            raise RuntimeError("the encoder was dropped: pass embeddings")
        inputs = normalise_for_encoder(inputs.to(self.image_positions.dtype), self.pixel_mean, self.pixel_std)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_is_frozen):
            return self.image_encoder(inputs)

    def adapt(self, embeddings: Tensor, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Project the embeddings and add the adapter's correction, where there is one or the other.

        Args:
            embeddings: (B, C', G, G) of the encoder.
            images: (B, 3, S, S) in 0..255.

        Returns:
            The embedding (B, C, G, G) for the mask decoder, and the maps to add inside it (`added_to_upscaling`), which
            only `cad_hires` has.
        """
        embeddings = embeddings.to(self.image_positions.dtype)
        if self.projection is not None:
            embeddings = self.projection(embeddings)
        if self.conv_adapter is None or self.adapter_gate is None:
            return embeddings, ()
        inputs = adapter_input(images.to(self.image_positions.dtype), self.design.high_frequency)
        correction, maps = self.conv_adapter.corrections(inputs)
        return self.adapter_gate(embeddings, correction), maps

    def forward(self, images: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Mask logits of RGB images.

        Args:
            images: (B, 3, S, S), RGB in 0..255, uint8 or floating point; S a multiple of 8.
            embeddings: (B, C', G, G) as `encode` gives them, or None to encode `images` here.

        Returns:
            Logits (B, 1, S, S) before the sigmoid; above 0 is foreground.
        """
        if not len(images):
            return self._no_logits(images)
        if embeddings is None:
            embeddings = self.encode(images)
        embeddings, maps = self.adapt(embeddings, images)
        return self.decode(embeddings, maps, images.shape[-2:])

    def decode(self, embeddings: Tensor, maps: tuple[Tensor, ...], size: tuple[int, ...]) -> Tensor:
        """What `adapt` returns -> logits (B, 1, H, W) of masks of this size (H, W)."""
        if self.checkpoint_decoder and torch.is_grad_enabled() and len(embeddings) > 1:
            by_image = zip(*(tensor.split(1) for tensor in (embeddings, *maps)), strict=True)
            low_res_logits = torch.cat([checkpoint(self._decode, *one, use_reentrant=False) for one in by_image])
        else:
            low_res_logits = self._decode(embeddings, *maps)
        return F.interpolate(low_res_logits, size, mode="bilinear", align_corners=False)

    def _no_logits(self, images: Tensor) -> Tensor:
        """(0, 3, S, S) -> (0, 1, S, S). Of processes that train together one may have no image in a step; its BatchNorm
        takes part in the statistics all the same."""
        zero = 0 * self.mask_decoder.mask_tokens.weight.sum()  # a gradient for backward to start from
        if self.conv_adapter is not None:
            correction, maps = self.conv_adapter.corrections(self.image_positions.new_zeros(0, 6, *images.shape[-2:]))
            zero = zero + correction.sum() + sum(one.sum() for one in maps)
        return zero + images.new_zeros(images[:, :1].shape, dtype=self.image_positions.dtype)

    def _decode(self, embeddings: Tensor, *maps: Tensor) -> Tensor:
        """(B, C, G, G) and the maps of the high-resolution path -> logits (B, 1, 4G, 4G)."""
        # Prompts stay at batch 1: SAM's decoder then broadcasts them over the batch of images.
        with added_to_upscaling(self.mask_decoder, maps):
            low_res_logits, _ = self.mask_decoder(
                image_embeddings=embeddings,
                image_pe=self.image_positions,
                sparse_prompt_embeddings=self.box_prompt,
                dense_prompt_embeddings=self.dense_prompt.expand_as(self.image_positions),
                multimask_output=False,
            )
        return low_res_logits


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes)
