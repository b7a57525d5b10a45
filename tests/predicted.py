"""For the tests of prediction: a model that needs no weights, weights that need no training, and photographs."""

import cv2
import numpy as np
import torch
from PIL import Image

from cad.datasets.demo import draw_camouflage
from cad.encoders.sam import load_sam
from cad.segmenter import Segmenter
from cad.trained_weights import save_weights


class Bright:
    """Foreground where a blurred image is bright: the same wherever in the image something is."""

    def __init__(self, image_size: int = 64) -> None:
        self.image_size = image_size
        self.batches: list[int] = []

    def mask_logits(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8 and images.shape[1:] == (self.image_size, self.image_size, 3)
        self.batches.append(len(images))
        grey = images.astype(np.float32).mean(axis=3)
        return np.stack([(cv2.GaussianBlur(one, (0, 0), 1.5) - 110) / 30 for one in grey])[:, None]


def write_weights(path, method="decoder", seed=3, image_size=64):
    """Weights of a small segmenter that finds foreground in parts of most images."""
    torch.manual_seed(seed)
    sam, base = load_sam("vit_demo", "random", seed)
    segmenter = Segmenter(sam, method)
    with torch.no_grad():
        for parameter in segmenter.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    metadata = {"method": method, "model_type": "vit_demo", "image_size": image_size, "base": base.as_metadata()}
    save_weights(path, segmenter, metadata | {"demo": True})
    return path


def write_photographs(folder, count, broken=()):
    """`count` camouflaged blobs of different sizes, every third in a folder of its own; some files cut short."""
    (folder / "more").mkdir(parents=True)
    paths = []
    for index in range(count):
        image, _ = draw_camouflage(np.random.default_rng(index))
        path = folder / ("more" if index % 3 == 2 else ".") / f"photo_{index:03}.{'png' if index % 2 else 'jpg'}"
        Image.fromarray(image[: 256 - 5 * (index % 7), : 200 + 8 * (index % 6)]).save(path)
        if index in broken:
            path.write_bytes(path.read_bytes()[:1000])
        paths.append(path)
    return paths


def contents(folder):
    """Every file below a folder with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
