"""Labelled images by the name of their source: faces drawn on the spot, a FER2013-like CSV, MNIST, a .npz."""

from pathlib import Path

from fedfer.model.data import LabelledImages
from fedfer.model.errors import UsageError
from fedfer.model.faces import draw_faces
from fedfer.model.fer2013 import read_fer2013
from fedfer.model.idx import NUM_DIGITS, read_mnist
from fedfer.model.labels import LABELS
from fedfer.model.npz import read_npz

DRAWN = "drawn"
NPZ = ".npz"
OWNERS = "owners"  # a .npz's array that says whose each example is
MNIST = "mnist:"  # and the folder that holds the four idx files
MAX_DRAWN = 1_000_000


def label_names(source: str, num_labels: int = 0) -> tuple[str, ...]:
    """What the labels 0, 1, ... of a source are called; a .npz, which does not say, has `num_labels`."""
    if source.endswith(NPZ):
        return tuple(map(str, range(num_labels)))
    return tuple(map(str, range(NUM_DIGITS))) if source.startswith(MNIST) else LABELS


def load_images(
    source: str,
    *,
    skip: int = 0,
    take: int | None = None,
    seed: int = 0,
    usage: str | None = None,
    owner_column: str | None = None,
) -> LabelledImages:
    """`take` images from place `skip` on of `drawn` (a series that `seed` fixes), of a CSV, a .npz or
    `mnist:DIR`.

    Equal settings give equal images; ranges that do not overlap share none. `usage` keeps a CSV's rows
    with this Usage, and is `train` (if not given) or `test` for MNIST;
    `owner_column` names the CSV's column that says whose each image is.
    Raises UsageError for settings that do not fit, DataError for files that cannot be read.
    """
    if skip < 0 or (take is not None and take < 1):
        raise UsageError(f"expected skip >= 0 and take >= 1; received skip {skip}, take {take}")
    if owner_column is not None and (source == DRAWN or source.startswith(MNIST)):
        raise UsageError(f"{source} has no columns; received {owner_column}: take a CSV that has this column")
    if source.startswith(MNIST):
        return read_mnist(Path(source.removeprefix(MNIST)), usage=usage, skip=skip, take=take)
    if source.endswith(NPZ):
        if usage is not None or owner_column not in (None, OWNERS):
            raise UsageError(f"{source} has no Usage, and no column but {OWNERS}; leave them out")
        return read_npz(Path(source), skip=skip, take=take, with_owners=owner_column is not None)
    if source != DRAWN:
        return read_fer2013(Path(source), usage=usage, skip=skip, take=take, owner_column=owner_column)
    if usage is not None:
        raise UsageError(f"drawn faces have no Usage; received {usage}: leave it out")
    if take is None or take > MAX_DRAWN:
        raise UsageError(f"drawn faces have no end: say how many to take, at most {MAX_DRAWN}")
    return draw_faces(take, first=skip, seed=seed)
