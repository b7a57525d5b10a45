"""A trained mask decoder as a whole SAM file, for any software that loads segment_anything's weights."""

import argparse

import torch

from cad.encoders.sam import SAM_SIZES, read_weights_file
from cad.errors import UserError
from cad.files import refuse_existing, write_atomically
from cad.options import checkpoints_folder
from cad.segmenter import Segmenter
from cad.trained_weights import load_segmenter, read_weights


def merge(args: argparse.Namespace) -> None:
    """Write the SAM file of the flags (`export_options.merge_parser`) and say how to load it.

    Raises:
        UserError: weights of a method that SAM's architecture has no place for, or files that are missing, damaged or
            there already; nothing is written then.
    """
    refuse_existing(args.output)
    _refuse_whole_sam(args)
    metadata = read_weights(args.checkpoint).metadata
    if metadata["model_type"] not in SAM_SIZES:
        raise UserError(f"{args.checkpoint}: was trained on {metadata['model_type']}, which is no SAM to merge it into")
    if metadata["method"] != "decoder":
        raise UserError(
            f"{args.checkpoint}: holds {metadata['method']}, whose adapter has no place in a plain SAM file; use "
            "cad.sam_predictor to prompt it through segment_anything, or export_onnx.py for other software"
        )
    segmenter, metadata = load_segmenter(args.checkpoint, checkpoints_folder(), args.sam_checkpoint)
    state = sam_state(segmenter)
    write_atomically(args.output, lambda file: torch.save(state, file))
    print(f"{args.output}: SAM {metadata['model_type']} with the trained mask decoder, {len(state)} tensors")
    if metadata["model_type"] == "vit_demo":
        print("vit_demo is this project's own size: segment_anything has no builder for it")
    else:
        print(f'segment_anything.sam_model_registry["{metadata["model_type"]}"](checkpoint="{args.output}") loads it')


def _refuse_whole_sam(args: argparse.Namespace) -> None:
    content = read_weights_file(args.checkpoint)
    adapters = ("conv_adapter.", "image_encoder.task_adapter_")
    whole = isinstance(content, dict) and "image_encoder.pos_embed" in content
    if whole and not any(str(name).startswith(adapters) for name in content):
        raise UserError(f"{args.checkpoint}: is a whole SAM file already: segment_anything loads it as it is")


def sam_state(segmenter: Segmenter) -> dict[str, torch.Tensor]:
    """SAM's state dict, float32, of a segmenter without an adapter; the IoU head and multimask outputs are SAM's."""
    assert segmenter.method in ("decoder", "zero_shot")
    return {name: tensor.detach().cpu().float().contiguous() for name, tensor in segmenter.state_dict().items()}
