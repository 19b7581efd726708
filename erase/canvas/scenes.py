"""Compose emoji drawings on varied backgrounds and render them in a style."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from erase.canvas.styles import RENDERERS
from erase.canvas.world import IMAGE_SIZE


RENDER_SIZE = 2 * IMAGE_SIZE  # styles are drawn at twice the size and averaged down


class Scene(NamedTuple):
    """A composed picture before any style: colours in [0, 1], (S, S, 3), and object coverage in [0, 1], (S, S)."""

    colours: np.ndarray
    mask: np.ndarray


def render(style: str, sprites: list[Image.Image], rng: np.random.Generator) -> np.ndarray:
    """Draw one or two sprites in one style: uint8, (IMAGE_SIZE, IMAGE_SIZE, 3)."""
    scene = compose(sprites, rng)
    image = np.clip(RENDERERS[style](scene.colours, scene.mask, rng), 0, 1)
    image = image.reshape(IMAGE_SIZE, 2, IMAGE_SIZE, 2, 3).mean((1, 3))
    return (image * 255 + 0.5).astype(np.uint8)


def compose(sprites: list[Image.Image], rng: np.random.Generator) -> Scene:
    """Paste sprites at random sizes, tilts and flips: one at a random place, or two, the first above and left."""
    canvas = Image.fromarray((_background(rng) * 255).astype(np.uint8))
    coverage = Image.new("L", canvas.size)
    span = (0.66, 0.9) if len(sprites) == 1 else (0.54, 0.62)
    slots = [(0.5, 0.5)] if len(sprites) == 1 else [(0.0, 0.0), (1.0, 1.0)]
    jitter = 0.35 if len(sprites) == 1 else 0.15  # of the room that is left
    for sprite, slot in zip(sprites, slots, strict=True):
        side = int(rng.uniform(*span) * RENDER_SIZE)
        drawing = sprite.resize((side, side), Image.Resampling.LANCZOS)
        if rng.random() < 0.5:
            drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        drawing = drawing.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC)
        room = RENDER_SIZE - side
        left, top = (int(np.clip(place + rng.uniform(-jitter, jitter), 0, 1) * room) for place in slot)
        alpha = drawing.getchannel("A")
        shadow = Image.new("L", canvas.size)
        shadow.paste(alpha, (left + 2, top + 3))
        canvas = Image.composite(
            canvas.point(lambda v: int(v * 0.6)), canvas, shadow.filter(ImageFilter.GaussianBlur(3))
        )
        canvas.paste(drawing.convert("RGB"), (left, top), alpha)
        coverage.paste(alpha, (left, top), alpha)
    return Scene(np.asarray(canvas, np.float32) / 255, np.asarray(coverage, np.float32) / 255)


def _background(rng: np.random.Generator) -> np.ndarray:
    """A soft outdoor-like backdrop: a gradient sky over a ground with a wavy horizon, or a plain studio wall."""
    y, x = np.mgrid[0:RENDER_SIZE, 0:RENDER_SIZE].astype(np.float32) / RENDER_SIZE
    top, bottom = _pastel(rng), _pastel(rng)
    image = top + (bottom - top) * y[..., None]
    if rng.random() < 0.6:
        horizon = rng.uniform(0.55, 0.8) + 0.04 * np.sin(2 * np.pi * (x * rng.uniform(0.5, 2) + rng.random()))
        ground = _pastel(rng) * rng.uniform(0.65, 0.9)
        image = np.where((y > horizon)[..., None], ground * (1.1 - 0.3 * y[..., None]), image)
    grain = rng.normal(0, 0.015, (RENDER_SIZE, RENDER_SIZE, 1)).astype(np.float32)
    return np.clip(image + grain, 0, 1)


def _pastel(rng: np.random.Generator) -> np.ndarray:
    hue = rng.random() * 6
    wheel = np.clip(np.abs((hue - np.array([0, 2, 4]) + 3) % 6 - 3) - 1, 0, 1)  # fully saturated RGB of that hue
    lightness, saturation = rng.uniform(0.6, 0.92), rng.uniform(0.15, 0.5)
    return (lightness * (1 - saturation * (1 - wheel))).astype(np.float32)
