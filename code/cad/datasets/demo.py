"""The built-in demo: two small synthetic tasks on real textures, written as ordinary folders.

    camouflage   a blob filled with the background's own texture, taken from elsewhere in it, turned and of finer grain
    shadow       a soft-edged blob of darkening

Numbers on it show that the software works, not that the method does.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cad.errors import UserError

DEMO_TASKS = ("camouflage", "shadow")
DEMO_COUNTS = {"train": 60, "test": 20}
SIDE = 256
_VERSION = "1"  # written beside the images; raise it when they change


def prepare_demo(folder: Path, task: str, seed: int = 0, counts: dict[str, int] = DEMO_COUNTS) -> Path:
    """Write a demo set below `folder` unless it is already there: {train,test}/{image,mask}/*.{jpg,png}.

    Args:
        task: one of `DEMO_TASKS`.
        counts: images of each split.

    Returns:
        The folder of the task. It appears complete or not at all; one of another seed, counts or version is replaced.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        return _prepare_demo(folder, task, seed, counts)
    except OSError as error:
        raise UserError(f"{folder}: the demo cannot be written there: {error.strerror or error}") from error


def _prepare_demo(folder: Path, task: str, seed: int, counts: dict[str, int]) -> Path:
    target = folder / task
    label = f"{_VERSION} {seed} {counts}"
    label_file = target / "made_by_sam_cad.txt"
    if label_file.is_file() and label_file.read_text() == label:
        return target
    shutil.rmtree(target, ignore_errors=True)
    unfinished = folder / f".{task}-{os.getpid()}"
    try:
        _draw_all(unfinished, task, seed, counts)
        (unfinished / label_file.name).write_text(label)
        unfinished.rename(target)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not label_file.is_file():  # else another process was first, with the same images
            raise
    return target


def _draw_all(folder: Path, task: str, seed: int, counts: dict[str, int]) -> None:
    draw: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]] = {
        "camouflage": draw_camouflage,
        "shadow": draw_shadow,
    }[task]
    for split_number, (split, count) in enumerate(counts.items()):
        for kind in ("image", "mask"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, mask = draw(np.random.default_rng([seed, split_number, index]))
            Image.fromarray(image).save(folder / split / "image" / f"{task}_{index:03d}.jpg", quality=95)
            Image.fromarray(mask * 255).save(folder / split / "mask" / f"{task}_{index:03d}.png")


def draw_camouflage(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A camouflaged blob: image (256, 256, 3) and mask (256, 256), uint8."""
    texture = _texture(random)
    background = _crop(texture, random)
    finer = cv2.resize(texture, None, fx=(grain := random.uniform(0.5, 0.6)), fy=grain, interpolation=cv2.INTER_AREA)
    patch = np.rot90(_crop(finer, random), int(random.integers(1, 4))) + random.choice([-1, 1]) * random.uniform(10, 20)
    alpha, mask = _blob(random, softness=1.0)
    blended = background * (1 - alpha) + patch * alpha
    return _tint(blended, random), mask


def draw_shadow(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A shadow on a surface: image (256, 256, 3) and mask (256, 256), uint8."""
    alpha, mask = _blob(random, softness=4.0)
    lit = _crop(_texture(random), random)
    return _tint(lit * (1 - alpha * random.uniform(0.4, 0.6)), random), mask


def _texture(random: np.random.Generator) -> np.ndarray:
    """One of scikit-image's photographs of a surface, (512, 512) in 0..255, at one of two scales."""
    from skimage import data  # slow to import, and needed for the demo alone

    texture = (data.brick, data.grass, data.gravel)[random.integers(3)]().astype(np.float32)
    return texture if random.random() < 0.5 else cv2.GaussianBlur(texture, (0, 0), 0.8)


def _crop(texture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    top, left = random.integers(0, texture.shape[0] - SIDE + 1, size=2)
    return texture[top : top + SIDE, left : left + SIDE]


def _blob(random: np.random.Generator, softness: float) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random outline: coverage (256, 256) in 0..1 and the mask where it is above one half."""
    angles = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    radius = np.full_like(angles, random.uniform(50, 80))
    for wave in range(2, 6):
        radius *= 1 + random.uniform(-0.25, 0.25) / wave * np.cos(wave * angles + random.uniform(0, 2 * np.pi))
    centre = random.uniform(85, SIDE - 85, size=2)
    outline = np.stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], axis=1)
    hard = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(hard, [outline.round().astype(np.int32)], (1,))
    alpha = cv2.GaussianBlur(hard.astype(np.float32), (0, 0), softness)
    return alpha, (alpha > 0.5).astype(np.uint8)


def _tint(grey: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Give a grey picture one random colour cast: (H, W) -> (H, W, 3) uint8."""
    cast = random.uniform(0.8, 1.1, size=3).astype(np.float32)
    return np.clip(grey[:, :, None] * cast, 0, 255).astype(np.uint8)
