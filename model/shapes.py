"""Painting shapes given as signed distances: negative inside, in the units of the canvas's coordinates.

Edges are one pixel wide, so that small pictures are not jagged. numpy only.
"""

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]
Point = tuple[float, float]


class Canvas:
    """A square picture of tones 0..1, `size` pixels wide, with coordinates x, y of its own: their origin
    at the pixel (center_x, center_y), `scale` pixels a unit, turned clockwise by `turn` radians."""

    def __init__(
        self, size: int, center_x: float, center_y: float, scale: float, turn: float, tone: float
    ) -> None:
        rows, columns = np.mgrid[0:size, 0:size].astype(np.float64)
        right, down = (columns - center_x) / scale, (rows - center_y) / scale
        self.x: Grid = right * np.cos(turn) + down * np.sin(turn)
        self.y: Grid = down * np.cos(turn) - right * np.sin(turn)
        self.tones: Grid = np.full((size, size), tone)
        self._scale = scale

    def paint(self, distance: Grid, tone: float) -> None:
        """Covers the inside of a shape with one tone."""
        cover = np.clip(0.5 - distance * self._scale, 0, 1)
        self.tones += cover * (tone - self.tones)


def ellipse(x: Grid, y: Grid, center_x: float, center_y: float, radius_x: float, radius_y: float) -> Grid:
    """Distance to an ellipse, to first order: exact for circles."""
    across, along = (x - center_x) / radius_x, (y - center_y) / radius_y
    length = np.sqrt(across**2 + along**2)
    slope = np.sqrt((across / radius_x) ** 2 + (along / radius_y) ** 2)
    near: Grid = length * (length - 1) / np.maximum(slope, 1e-9)
    return near


def lens(x: Grid, y: Grid, half_width: float, above: float, below: float) -> Grid:
    """Distance to an almond: `half_width` to each side, `above` and `below` high at its middle."""
    upper = ellipse(x, y, 0, 0, half_width, max(above, 1e-3))
    lower = ellipse(x, y, 0, 0, half_width, max(below, 1e-3))
    # To first order a flat ellipse reaches far to its sides: cut it off there.
    return np.maximum(np.where(y < 0, upper, lower), np.abs(x) - half_width)


def curve(x: Grid, y: Grid, start: Point, end: Point, rise: float, num_segments: int = 6) -> Grid:
    """Distance (never negative: subtract half the stroke's width) to a parabola from `start` to `end` whose
    middle stands `rise` above the straight line; y points down."""
    along = np.linspace(0, 1, num_segments + 1)
    xs = start[0] + along * (end[0] - start[0])
    ys = start[1] + along * (end[1] - start[1]) - 4 * rise * along * (1 - along)
    nearest = np.full(x.shape, np.inf)
    for i in range(num_segments):
        from_x, from_y = x - xs[i], y - ys[i]
        step_x, step_y = xs[i + 1] - xs[i], ys[i + 1] - ys[i]
        share = np.clip((from_x * step_x + from_y * step_y) / (step_x**2 + step_y**2), 0, 1)
        np.minimum(nearest, (from_x - share * step_x) ** 2 + (from_y - share * step_y) ** 2, out=nearest)
    distance: Grid = np.sqrt(nearest)
    return distance
