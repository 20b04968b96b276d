"""Faces drawn on the spot, so that everything can be tried without a data set.

Seven expressions in the order of `fedfer.model.labels`, told apart by brows, eyes and mouth as a person
would; place, size, turn, tones, light, hair and noise vary. Grey uint8 (n,48,48,1). Image i of a series is a
function of (seed, i) alone, and any seven in a row show all seven expressions.

Shapes are signed distances (`fedfer.model.shapes`) in the face's own coordinates: the face is 0.8 wide and 1
high to each side, y points down.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedfer.model.data import LabelledImages
from fedfer.model.errors import UsageError
from fedfer.model.labels import IMAGE_SHAPE, IMAGE_SIZE, NUM_LABELS
from fedfer.model.shapes import Canvas, Grid, curve, ellipse, lens


@dataclass(frozen=True)
class Expression:
    """What tells an expression apart. Lengths are in face heights from the middle; "up" is positive.

    `brow_inner`, `brow_outer`: how far a brow's ends are raised. `lid_up`, `lid_down`: how far the eye is
    open above and below its middle. `mouth_bend`: how far the mouth's corners stand above its middle.
    `mouth_open`: the gap between the lips. `skew`: how far one corner of the mouth is pulled up.
    """

    brow_inner: float = 0.0
    brow_outer: float = 0.0
    brow_arch: float = 0.05
    lid_up: float = 0.09
    lid_down: float = 0.07
    mouth_width: float = 0.30
    mouth_bend: float = 0.0
    mouth_open: float = 0.0
    mouth_y: float = 0.52
    skew: float = 0.0
    teeth: bool = False
    nose_wrinkles: bool = False
    tongue: bool = False
    tear: bool = False


EXPRESSIONS = (
    # angry: brows drawn down to the nose, teeth bared
    Expression(-0.17, 0.12, 0.0, 0.05, 0.06, 0.30, -0.07, 0.15, teeth=True),
    # disgust: eyes screwed up, nose wrinkled, lip raised on one side, tongue out
    Expression(-0.10, -0.05, 0.0, 0.02, 0.03, 0.27, -0.09, 0.12, skew=0.12, nose_wrinkles=True, tongue=True),
    # fear: brows raised, most at the nose; eyes wide; mouth open and drawn out, corners down
    Expression(0.18, 0.04, 0.0, 0.15, 0.11, 0.36, -0.08, 0.14),
    # happy: broad smile with teeth, lower lids pushed up
    Expression(0.05, 0.03, 0.10, 0.09, 0.02, 0.40, 0.20, 0.20, teeth=True, mouth_y=0.46),
    # sad: inner brows up, outer down, lids drooping, mouth bent down, a tear
    Expression(0.12, -0.12, 0.0, 0.04, 0.05, 0.24, -0.15, 0.0, mouth_y=0.54, tear=True),
    # surprise: brows high and arched, eyes round, mouth a tall O
    Expression(0.17, 0.15, 0.12, 0.15, 0.13, 0.14, 0.0, 0.36),
    # neutral
    Expression(),
)


@dataclass(frozen=True)
class Look:
    """One person and one photograph: tones 0..1, the face's place and size in pixels, its turn in radians."""

    center_x: float
    center_y: float
    scale: float
    turn: float
    skin: float
    ink: float
    background: float
    hair: float
    light: float
    face_width: float
    fringe: float
    noise: float


def draw_faces(count: int, *, first: int = 0, seed: int = 0) -> LabelledImages:
    """Images `first` .. `first + count - 1` of the series `seed`. Raises UsageError for numbers below 0."""
    if min(count, first, seed) < 0:
        raise UsageError(f"expected numbers of at least 0; received {count} faces from {first}, seed {seed}")
    order = np.random.default_rng([seed]).permutation(NUM_LABELS)
    labels = order[np.arange(first, first + count) % NUM_LABELS].astype(np.uint8)
    images = np.empty((count, *IMAGE_SHAPE), np.uint8)
    for place, label in enumerate(labels):
        images[place, :, :, 0] = _draw(int(label), np.random.default_rng([seed, 1, first + place]))
    return LabelledImages(images, labels)


def _draw(label: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    look, expression = _draw_look(rng), _vary(EXPRESSIONS[label], rng)
    canvas = Canvas(IMAGE_SIZE, look.center_x, look.center_y, look.scale, look.turn, look.background)
    _paint_head(canvas, look)
    for side in (-1.0, 1.0):
        _paint_eye(canvas, look, expression, side)
    _paint_nose(canvas, look, expression)
    _paint_mouth(canvas, look, expression)
    tones = canvas.tones * (1 + look.light * np.linspace(-1, 1, IMAGE_SIZE)) + rng.normal(
        0, look.noise, canvas.tones.shape
    )
    pixels: NDArray[np.uint8] = np.clip(np.rint(tones * 255), 0, 255).astype(np.uint8)
    return pixels


def _draw_look(rng: np.random.Generator) -> Look:
    middle, skin = (IMAGE_SIZE - 1) / 2, rng.uniform(0.48, 0.85)
    return Look(
        center_x=middle + rng.uniform(-2, 2),
        center_y=middle + 1 + rng.uniform(-2, 2),
        scale=rng.uniform(19, 22.5),
        turn=rng.uniform(-0.16, 0.16),
        skin=skin,
        ink=skin * rng.uniform(0.1, 0.25),
        background=(skin + rng.uniform(0.15, 0.85)) % 1.0,  # never the skin's own tone
        hair=rng.choice([rng.uniform(0.03, 0.25), rng.uniform(0.55, 0.95)]),
        light=rng.uniform(-0.18, 0.18),
        face_width=rng.uniform(0.74, 0.88),
        fringe=rng.uniform(-0.80, -0.62),
        noise=rng.uniform(0.01, 0.045),
    )


def _vary(expression: Expression, rng: np.random.Generator) -> Expression:
    """The same expression as another person would show it: stronger or weaker, and never quite even."""
    strength, shift = rng.uniform(0.85, 1.15), rng.normal(0, 0.012, 4)
    return replace(
        expression,
        brow_inner=expression.brow_inner * strength + shift[0],
        brow_outer=expression.brow_outer * strength + shift[1],
        mouth_bend=expression.mouth_bend * strength + shift[2],
        mouth_open=expression.mouth_open * strength,
        mouth_width=expression.mouth_width * rng.uniform(0.9, 1.1),
        skew=expression.skew * strength * rng.choice([-1, 1]),
        mouth_y=expression.mouth_y + shift[3],
    )


def _paint_head(canvas: Canvas, look: Look) -> None:
    x, y = canvas.x, canvas.y
    crown = ellipse(x, y, 0, -0.12, look.face_width + 0.12, 1.02)
    canvas.paint(crown, look.hair)
    for side in (-1.0, 1.0):
        canvas.paint(ellipse(x, y, side * look.face_width, 0.02, 0.10, 0.18), look.skin * 0.85)
    canvas.paint(ellipse(x, y, 0, 0, look.face_width, 1.0), look.skin)
    canvas.paint(np.maximum(crown, y - look.fringe - 0.1 * x), look.hair)


def _paint_eye(canvas: Canvas, look: Look, expression: Expression, side: float) -> None:
    x, y = (canvas.x - side * 0.34) * side, canvas.y + 0.13
    opening = lens(x, y, 0.17, expression.lid_up, expression.lid_down)
    canvas.paint(opening - 0.035, look.ink)
    canvas.paint(opening, 0.97)
    canvas.paint(np.maximum(opening, ellipse(x, y, 0, 0, 0.085, 0.085)), look.ink * 0.5)
    inner, outer = -0.24 - expression.brow_inner, -0.24 - expression.brow_outer
    brow = curve(x, y, (-0.18, inner), (0.20, outer), expression.brow_arch)
    canvas.paint(brow - 0.045, min(look.ink, look.hair))
    if expression.tear and side > 0:
        canvas.paint(ellipse(x, y, 0.05, 0.26, 0.055, 0.10), 1.0)


def _paint_nose(canvas: Canvas, look: Look, expression: Expression) -> None:
    x, y = canvas.x, canvas.y
    canvas.paint(curve(x, y, (-0.10, 0.24), (0.10, 0.24), -0.05) - 0.02, look.skin * 0.55)
    if expression.nose_wrinkles:
        for height in (-0.12, -0.01, 0.10):
            canvas.paint(curve(x, y, (-0.11, height), (0.11, height), 0.06) - 0.018, look.skin * 0.35)


def _paint_mouth(canvas: Canvas, look: Look, expression: Expression) -> None:
    width, bend, gap = expression.mouth_width, expression.mouth_bend, expression.mouth_open
    x, y = canvas.x, canvas.y - expression.mouth_y + expression.skew * canvas.x / width * 0.5
    if gap == 0:
        canvas.paint(curve(x, y, (-width, -bend / 2), (width, -bend / 2), -bend) - 0.04, look.ink)
        return
    opening = _open_mouth(x, y, width, bend, gap)
    canvas.paint(opening - 0.045, look.ink)
    canvas.paint(opening, 0.95 if expression.teeth else look.ink * 0.3)
    if expression.tongue:
        canvas.paint(ellipse(x, y, 0, 0.13, 0.14, 0.17) - 0.025, look.ink)
        canvas.paint(ellipse(x, y, 0, 0.13, 0.14, 0.17), look.skin * 0.8)
    if expression.teeth:
        bite = curve(x, y, (-width, -bend / 2), (width, -bend / 2), -bend) - 0.012
        canvas.paint(np.maximum(opening, bite), look.ink)


def _open_mouth(x: Grid, y: Grid, width: float, bend: float, gap: float) -> Grid:
    """A lens bent along a parabola whose ends stand `bend` above its middle."""
    middle = bend / 2 - bend * (x / width) ** 2
    return lens(x, y - middle, width, gap / 2, gap / 2)
