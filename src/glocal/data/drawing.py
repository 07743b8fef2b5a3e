"""Drawing textured parts and backgrounds for the parts world: small antialiased stamps on a float canvas.

A part is a shape and a texture in its own coordinates (u, v), where the shape has a radius of about 1 and u points away
from the object's body.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Canvas:
    """What has been drawn so far."""

    color: Array  # (H, W, 3) float32 in [0, 1]
    mask: Array  # (H, W) uint8, the part number on top, 0 for none
    coordinates: Array  # (H, W, 2) float32, the local (u, v) of the part on top, 0 where there is none


# Shapes: the signed distance (about) to the edge, negative inside.
ellipse = lambda u, v: np.sqrt((u / 1.15) ** 2 + (v / 0.9) ** 2) - 1
disc = lambda u, v: np.sqrt(u * u + v * v) - 1
triangle = lambda u, v: np.maximum(-u - 0.7, 0.5 * u + 0.866 * np.abs(v) - 0.55)  # it points outwards


def capsule(u: Array, v: Array) -> Array:
    """A bar with round ends, 2.5 long and 1.1 wide."""
    along = np.maximum(np.abs(u) - 0.7, 0)
    return np.sqrt(along * along + v * v) - 0.55


def flower(u: Array, v: Array) -> Array:
    """Five petals."""
    radius = np.sqrt(u * u + v * v) + 1e-6
    # cos 5a as a polynomial of cos a: no arctangent
    cos = u / radius
    return 0.85 * (radius - (0.88 + 0.2 * cos * (5 + cos * cos * (16 * cos * cos - 20))))


# Textures: waves around 0, whose sign chooses between the two colours.
stripes = lambda u, v: np.sin(9 * u)
dots = lambda u, v: np.cos(7.5 * u) + np.cos(7.5 * v) - 0.75
rings = lambda u, v: np.cos(11 * np.sqrt(u * u + v * v))
chevrons = lambda u, v: np.sin(9 * (u + 0.9 * np.abs(v)))
hatch = lambda u, v: np.maximum(np.cos(10 * u), np.cos(10 * v)) - 0.55
checks = lambda u, v: 1.6 * np.sin(5.5 * u) * np.sin(5.5 * v)
plain = lambda u, v: np.full_like(u, -1)


def stamp(canvas: Canvas, frame: Array, shape, texture, colors: Array, *, number: int, reach: float = 1.3) -> None:
    """Draw one shape over what is there.

    Args:
        canvas: drawn on.
        frame: (2, 3) float, the map from local (u, v) to pixels.
        shape, texture: functions of (u, v).
        colors: (2, 3), of negative and positive texture values.
        number: what to write into the mask (0: not a part).
        reach: no part of the shape is farther than this from its centre, in local units.
    """
    height, width = canvas.mask.shape
    (cx, cy), linear = frame[:, 2], frame[:, :2]
    pixels = float(np.sqrt(abs(np.linalg.det(linear))))  # per local unit
    x0, x1 = max(int(cx - reach * pixels), 0), min(int(cx + reach * pixels) + 2, width)
    y0, y1 = max(int(cy - reach * pixels), 0), min(int(cy + reach * pixels) + 2, height)
    if x0 >= x1 or y0 >= y1:
        return
    inverse = np.linalg.inv(linear).astype(np.float32)
    dx = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5 - cx)
    dy = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - cy)
    u, v = inverse[0, 0] * dx + inverse[0, 1] * dy, inverse[1, 0] * dx + inverse[1, 1] * dy

    inside = np.float32(pixels) * -shape(u, v)  # pixels from the edge
    alpha = np.clip(inside + 0.5, 0, 1)
    tone = np.clip(0.5 + texture(u, v) * np.float32(pixels / 10), 0, 1)  # the edge between tones is about a pixel wide
    light = (1 - (dx + 2 * dy) / np.float32(14 * pixels)) * (0.5 + 0.5 * np.clip(inside - 0.4, 0, 1))  # round, outlined
    base, step = colors[0].astype(np.float32), (colors[1] - colors[0]).astype(np.float32)
    ink = (base + tone[..., None] * step) * light[..., None]

    patch = canvas.color[y0:y1, x0:x1]
    patch += alpha[..., None] * (ink - patch)
    on_top = alpha >= 0.5
    canvas.mask[y0:y1, x0:x1][on_top] = number
    canvas.coordinates[y0:y1, x0:x1][on_top] = np.stack((u, v), -1)[on_top] if number else 0


def color(hue: Array, chroma: Array, lightness: Array) -> Array:
    """(..., 3) RGB from hue in turns, chroma and lightness in [0, 1]."""
    angle = 2 * np.pi * (np.asarray(hue)[..., None] - np.arange(3) / 3)
    return np.clip(np.asarray(lightness)[..., None] + np.asarray(chroma)[..., None] * np.cos(angle), 0, 1)


def ground(size: int, draws: Array, *, clutter: float) -> Array:
    """A background, (size, size, 3): soft coloured waves of random direction and length, of strength `clutter`.

    `draws` (5, 1 + W) are uniform numbers for W waves.
    """
    waves = draws.shape[1] - 1
    (angle, length, phase, weight, hue), first = draws[:, 1:], draws[:, 0]
    frequency = 2 * np.pi * (1 + 11 * length**2) / size
    at = np.arange(size) + 0.5
    across = (frequency * np.cos(2 * np.pi * angle))[:, None] * at + 2 * np.pi * phase[:, None]  # (waves, size)
    down = (frequency * np.sin(2 * np.pi * angle))[:, None] * at
    strength = clutter * (0.5 + weight) / np.sqrt(waves) * (1.5 - length)
    tint = (0.6 + 0.4 * color(hue, np.full(waves, 0.5), np.full(waves, 0.5))) * strength[:, None]  # (waves, 3)
    # cos(a + b) = cos a cos b - sin a sin b: every wave is two outer products
    columns = np.concatenate((np.cos(across), -np.sin(across)), 0)  # (2 waves, size)
    rows = np.concatenate((np.cos(down), np.sin(down)), 0)
    weighted = columns[:, :, None] * np.concatenate((tint, tint))[:, None]  # (2 waves, size, 3)
    # einsum, because a matrix product's last bits may depend on the number of threads
    field = np.einsum("ky,kx->yx", rows.astype(np.float32), weighted.reshape(2 * waves, -1).astype(np.float32))
    base = color(first[0], 0.08 * first[1], 0.42 + 0.26 * first[2])
    return base.astype(np.float32) + np.float32(0.3) * field.reshape(size, size, 3)
