"""Small trained segmenters and their files, for tests of what is made from them."""

import torch

from cad.adapters.adapter_design import AdapterDesign
from cad.encoders.sam import load_sam
from cad.segmenter import Segmenter
from cad.trained_weights import save_weights


def trained_segmenter(method, image_size=256, scale=0.05, **design):
    """A vit_demo in eval mode whose trained parts and BatchNorm statistics are not the initial ones, and metadata."""
    random = torch.Generator().manual_seed(1)
    sam, base = load_sam("vit_demo", "random", 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        segmenter = Segmenter(sam, method, design=AdapterDesign(**design))
    with torch.no_grad():
        for parameter in segmenter.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=random))
        segmenter.train()(torch.randint(0, 256, (2, 3, image_size, image_size), generator=random))
    metadata = {
        "method": method,
        "model_type": "vit_demo",
        "image_size": image_size,
        "base": base.as_metadata(),
        "demo": True,
        "run": "May21_172910",
        **design,
    }
    return segmenter.eval(), metadata


def trained_file(path, method, image_size=256, **design):
    """Write such weights and return the path."""
    save_weights(path, *trained_segmenter(method, image_size, **design))
    return path


def random_images(count, side, seed=0):
    """(count, side, side, 3) uint8 noise."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=random).numpy()
