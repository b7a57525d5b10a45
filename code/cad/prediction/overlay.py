"""A mask shown on its image: tinted, with an outline. For looking at, so at most 2048 pixels on the long side."""

import cv2
import numpy as np

LONGEST_SIDE = 2048
TINT = (0, 158, 255)  # RGB; a blue that few photographs have
TINT_SHARE = 0.38
OUTSIDE_BRIGHTNESS = 0.82
OUTLINE = (255, 255, 255)
FAR = 100.0  # pixels; where there is no outline the distance is arbitrarily large


def reduce_picture(image: np.ndarray) -> np.ndarray:
    """Shrink (H, W) or (H, W, C) uint8 to `LONGEST_SIDE` where it is larger."""
    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def draw_overlay(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Tint the mask over a picture, draw its outline and darken what is outside.

    Args:
        picture: (h, w, 3) uint8 RGB, as `reduce_picture` gives it.
        mask: (H, W) uint8, 0 or 255, of the unreduced image.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    small = cv2.resize(mask, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    if not small.any():
        return picture
    distance = _distance_to_outline(small > 127)
    colour = np.full_like(picture, TINT)
    drawn = cv2.convertScaleAbs(picture, alpha=OUTSIDE_BRIGHTNESS)
    cv2.copyTo(cv2.addWeighted(picture, 1 - TINT_SHARE, colour, TINT_SHARE, 0), (distance > 0).view(np.uint8), drawn)
    width = max(1.3, max(small.shape) / 320)
    lines = ((TINT, 1.9 * width, 0.75), (OUTLINE, 0.5 * width, 1.0))  # colour, reach, opacity; the wider one first
    near = np.abs(distance) < lines[0][1] + 0.5
    pixels, away = drawn[near].astype(np.float32), np.abs(distance[near])[:, None]
    for line_colour, reach, opacity in lines:
        share = np.clip(reach + 0.5 - away, 0, 1) * opacity
        pixels += (np.array(line_colour, np.float32) - pixels) * share
    drawn[near] = pixels.round()
    return drawn


def _distance_to_outline(mask: np.ndarray) -> np.ndarray:
    """How many pixels each pixel's centre is inside the outline, (h, w) float32; negative outside."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    # The distance is to the next pixel's centre on the other side; the outline is half a pixel before it.
    signed = np.where(mask, inside - 0.5, 0.5 - outside)
    return cv2.GaussianBlur(signed.clip(-FAR, FAR), (0, 0), 1.0)
