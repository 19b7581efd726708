"""The styles of the canvas world as image operations: (colours, mask, rng) -> colours, all in [0, 1] at render size."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter


Renderer = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def photo(colours: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Natural colours under a soft light from one side."""
    y, x = _grid(colours)
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + 0.12 * ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle))
    return colours * light[..., None]


def sketch(colours: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pencil: contours and a light diagonal hatching in the dark parts, grey on white."""
    grey = _lift(colours, mask) @ LUMA
    tone = _blur(grey, 1.5)
    y, x = _grid(colours)
    hatch = 0.5 + 0.5 * np.sin((x + y) * colours.shape[0] * np.pi / 3)
    shade = np.clip(0.75 - tone, 0, 1) * mask * hatch
    paper = 0.95 - 0.55 * shade + rng.normal(0, 0.015, grey.shape)
    ink = np.clip(_edges(grey, mask) * 1.6, 0, 1)
    return _rgb(paper * (1 - 0.8 * ink))


def blueprint(colours: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White contours on a blue sheet with a faint grid."""
    size = colours.shape[0]
    grid = np.zeros((size, size), np.float32)
    start = int(rng.integers(0, 16))
    for k in range(start, size, 16):
        grid[k : k + 2], grid[:, k : k + 2] = 1, 1
    line = np.clip(_edges(_lift(colours, mask) @ LUMA, mask) * 1.6, 0, 1)
    sheet = np.array([0.06, 0.2, 0.55], np.float32) * rng.uniform(0.9, 1.15)
    sheet = sheet + 0.13 * grid[..., None] * (1 - 0.7 * mask[..., None]) + 0.1 * mask[..., None]
    return sheet + (np.array([0.95, 0.98, 1], np.float32) - sheet) * line[..., None]


def neon(colours: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Glowing saturated contours on black."""
    vivid = _saturate(colours, 2.5)
    vivid = vivid / np.maximum(vivid.max(-1, keepdims=True), 0.25)
    line = np.clip(_edges(_lift(colours, mask) @ LUMA, mask) * 1.8, 0, 1)
    tube = vivid * line[..., None]
    glow = _blur(tube, 4) * 1.3
    night = np.array([0.03, 0.01, 0.07], np.float32)
    return night + tube + glow + 0.1 * vivid * mask[..., None]


def pixel_art(colours: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Square blocks of two final pixels in a small palette, with a checkered backdrop."""
    block = 4
    size = colours.shape[0] // block
    y, x = np.mgrid[0:size, 0:size]
    small = _saturate(colours, 1.5).reshape(size, block, size, block, 3).mean((1, 3))
    inside = mask.reshape(size, block, size, block).mean((1, 3)) > 0.4
    backdrop = np.where(((x // 2 + y // 2) % 2 == 0)[..., None], 0.62, 0.38) + 0.3 * (small - 0.5)
    small = np.where(inside[..., None], small, backdrop)
    small = np.round(np.clip(small, 0, 1) * 4) / 4
    outline = inside & ~(_shift(inside, 1, 0) & _shift(inside, -1, 0) & _shift(inside, 0, 1) & _shift(inside, 0, -1))
    small = np.where(outline[..., None], small * 0.35, small)
    return small.repeat(block, 0).repeat(block, 1)


def mosaic(colours: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stained glass: irregular cells of one colour between dark leads, cut along the object's outline."""
    size = colours.shape[0]
    y, x = np.mgrid[0:size, 0:size]
    step = 14
    centres = np.stack(np.meshgrid(np.arange(0, size + step, step), np.arange(0, size + step, step)), -1).reshape(-1, 2)
    centres = centres + rng.uniform(-5, 5, centres.shape)
    distance = (x[..., None] - centres[:, 0]) ** 2 + (y[..., None] - centres[:, 1]) ** 2
    tone = np.digitize(_blur(colours @ LUMA, 1), (0.3, 0.6))
    cell = (distance.argmin(-1) * 2 + (mask > 0.5)) * 3 + np.where(mask > 0.5, tone, 0)
    _, label = np.unique(cell, return_inverse=True)
    label = label.reshape(size, size)
    count = np.bincount(label.ravel())
    vivid = _saturate(colours, 2.2)
    glass = np.stack([np.bincount(label.ravel(), vivid[..., c].ravel()) / count for c in range(3)], -1)
    glass = glass * rng.uniform(0.8, 1.25, (len(glass), 1))
    joint = cell // 3
    lead = (joint != _shift(joint, 1, 0)) | (joint != _shift(joint, 0, 1))
    lead = lead | _shift(lead, 0, 1)
    return np.where(lead[..., None], 0.08, glass[label])


def pop_art(colours: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A posterised object with a black contour over rows of dots on a loud flat colour."""
    palettes = np.array(
        [[[1, 0.85, 0.1], [0.95, 0.2, 0.45]], [[0.2, 0.85, 0.95], [1, 0.95, 0.3]], [[1, 0.45, 0.7], [0.3, 0.3, 0.95]]]
    )
    ground, dot = palettes[rng.integers(len(palettes))]
    size = colours.shape[0]
    y, x = np.mgrid[0:size, 0:size]
    x = x + 5 * ((y // 10) % 2) + rng.integers(0, 10)
    dots = (x % 10 - 4.5) ** 2 + (y % 10 - 4.5) ** 2 < 9
    flat = np.where(dots[..., None], dot, ground)
    poster = np.round(np.clip(_saturate(_blur(colours, 0.8), 2.4) * 1.1, 0, 1) * 2) / 2
    image = np.where((mask > 0.5)[..., None], poster, flat)
    ring = np.clip(_edges(mask, mask) * 2, 0, 1)
    return image * (1 - ring[..., None])


def sepia(colours: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brown tones, faded contrast, dark corners and grain."""
    grey = np.clip(0.5 + 1.15 * (colours @ LUMA - 0.55), 0.05, 1)
    y, x = _grid(colours)
    corner = 1 - rng.uniform(0.9, 1.2) * np.clip((x - 0.5) ** 2 + (y - 0.5) ** 2 - 0.1, 0, 1)
    grey = grey * corner + rng.normal(0, 0.025, grey.shape)
    return grey[..., None] * np.array([1.08, 0.85, 0.58], np.float32)


def watercolor(colours: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pale washes with dark wet rims on white paper."""
    wobble = _noise(rng, colours.shape[0], 8, 2) * 2.5
    warped = _sample(np.concatenate([colours, mask[..., None]], -1), wobble[..., 0], wobble[..., 1])
    wash, inside = _blur(warped[..., :3], 1.5), _blur(warped[..., 3], 1.2)
    wash = 0.42 + 0.58 * _saturate(wash, 1.6)
    rim = np.clip(4 * inside * (1 - inside) - 0.35, 0, 1)
    bloom = _blur(inside, 7) + 0.35 * _noise(rng, colours.shape[0], 6, 1)[..., 0]
    cover = np.clip(np.maximum(inside, np.clip(bloom * 1.2, 0, 1) * 0.6), 0, 1)[..., None]
    paper = 0.97 + 0.02 * rng.normal(0, 1, (*mask.shape, 1))
    return (paper + (wash - paper) * cover) * (1 - 0.3 * rim[..., None])


def van_gogh(colours: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Thick strokes along a swirling flow, blue and yellow in the background."""
    size = colours.shape[0]
    potential = _noise(rng, size, 5, 1)[..., 0] + 0.25 * _blur(mask, 5)
    gy, gx = np.gradient(potential)
    length = np.hypot(gx, gy) + 1e-6
    dx, dy = -gy / length, gx / length
    grain = rng.random((size, size)).astype(np.float32)
    stroke = np.zeros_like(grain)
    smear = np.zeros_like(colours)
    for k in np.arange(-8, 9, 1.0):  # line integral convolution along the flow
        stroke += _sample(grain[..., None], k * dx, k * dy)[..., 0]
        smear += _sample(colours, 0.35 * k * dx, 0.35 * k * dy)
    stroke = (stroke - stroke.mean()) / stroke.std()
    smear = _saturate(smear / 17, 1.7)
    swirl = np.clip(0.5 + 0.45 * np.sin(potential * 14 + rng.uniform(0, 6)), 0, 1)[..., None]
    sky = np.array([0.12, 0.25, 0.62]) * (1 - swirl) + np.array([0.9, 0.78, 0.3]) * swirl**2
    image = smear * mask[..., None] + (0.75 * sky + 0.25 * smear) * (1 - mask[..., None])
    relief = np.where(mask > 0.5, 0.07, 0.15) * stroke
    rim = np.clip(_edges(mask, mask) * 1.2, 0, 1) * 0.6
    return (image + relief[..., None]) * (1 - rim[..., None])


RENDERERS: dict[str, Renderer] = {
    "Photo": photo,
    "Sketch": sketch,
    "Blueprint": blueprint,
    "Neon_Lines": neon,
    "Pixel_Art": pixel_art,
    "Mosaic": mosaic,
    "Pop_Art": pop_art,
    "Sepia": sepia,
    "Watercolor": watercolor,
    "Van_Gogh": van_gogh,
}


def _grid(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = colours.shape[0]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    return y, x


def _rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, -1)


def _blur(image: np.ndarray, radius: float) -> np.ndarray:
    if image.ndim == 3:
        return np.stack([_blur(image[..., c], radius) for c in range(image.shape[-1])], -1)
    picture = Image.fromarray(np.ascontiguousarray(image, np.float32) * 255).convert("L")
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _saturate(colours: np.ndarray, factor: float) -> np.ndarray:
    grey = (colours @ LUMA)[..., None]
    return np.clip(grey + (colours - grey) * factor, 0, 1)


def _lift(colours: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Clear the background, so that contours belong to the object alone."""
    return colours * mask[..., None] + (1 - mask[..., None])


def _edges(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Gradient magnitude of the drawing and of its outline, about one at a sharp edge."""
    total = np.zeros_like(grey)
    for plane, weight in ((_blur(grey, 0.8), 1.4), (_blur(mask, 0.8), 1.6)):
        gy, gx = np.gradient(plane)
        total = np.maximum(total, weight * 2 * np.hypot(gx, gy))
    return total


def _shift(plane: np.ndarray, dy: int, dx: int) -> np.ndarray:
    return np.roll(plane, (dy, dx), (0, 1))


def _noise(rng: np.random.Generator, size: int, cells: int, channels: int) -> np.ndarray:
    """Smooth random fields in about [-1, 1], (size, size, channels)."""
    planes = []
    for _ in range(channels):
        coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
        planes.append(np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)))
    return np.stack(planes, -1)


def _sample(image: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Nearest-neighbour lookup at an offset, edges repeated."""
    size = image.shape[0]
    y, x = np.mgrid[0:size, 0:size]
    rows = np.clip((y + dy + 0.5).astype(int), 0, size - 1)
    columns = np.clip((x + dx + 0.5).astype(int), 0, size - 1)
    return image[rows, columns]
