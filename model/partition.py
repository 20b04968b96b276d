"""Who holds which image: labels [n] -> for each device the indices of its images.

Contiguous runs, an even random split (IID), or a skewed one: label mixes drawn from Dirichlet(alpha), after
Hsu, Qi and Brown 2019, "Measuring the Effects of Non-Identical Data Distribution" (arXiv 1909.06335).
Parts are disjoint and none is empty. The same seed gives the same parts.
"""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fedfer.model.errors import UsageError

Scheme = Literal["contiguous", "iid", "dirichlet"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
ALPHA = 0.5
MIN_ALPHA, MAX_ALPHA = 1e-3, 1e6  # beyond them the gamma draws under- or overflow, and nothing changes
Parts = list[NDArray[np.intp]]


def partition(
    labels: NDArray[np.integer[Any]],
    num_devices: int,
    *,
    scheme: str,
    alpha: float = ALPHA,
    examples_per_device: int | None = None,
    seed: int = 0,
) -> Parts:
    """Indices into `labels` for each of `num_devices` devices.

    `contiguous`: device k holds the k-th run. `iid`: runs of a permutation. `dirichlet`: each device draws
    its own label mix from a Dirichlet distribution; the smaller `alpha`, the fewer labels on a device.
    With `examples_per_device` every device gets exactly so many; without, all images are given out.
    Raises UsageError for what cannot be.
    """
    _check(len(labels), num_devices, scheme, alpha, examples_per_device, seed)
    rng = np.random.default_rng(seed)
    if scheme == "dirichlet":
        if examples_per_device is None:
            return _dirichlet_split(labels, num_devices, alpha, rng)
        return _dirichlet_draw(labels, num_devices, alpha, examples_per_device, rng)
    order = np.arange(len(labels)) if scheme == "contiguous" else rng.permutation(len(labels))
    if examples_per_device is not None:
        order = order[: num_devices * examples_per_device]
    return list(np.array_split(order, num_devices))


def _dirichlet_split(
    labels: NDArray[np.integer[Any]], num_devices: int, alpha: float, rng: np.random.Generator
) -> Parts:
    """Everything given out: each label's images are shared among the devices by a Dirichlet draw."""
    owners = np.empty(len(labels), np.intp)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(num_devices, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.intp)
        for device, part in enumerate(np.split(members, cuts)):
            owners[part] = device
    _fill_empty(owners, num_devices, rng)
    return [np.flatnonzero(owners == device) for device in range(num_devices)]


def _fill_empty(owners: NDArray[np.intp], num_devices: int, rng: np.random.Generator) -> None:
    """Gives each device without images one of the device that has most: a device must train on something."""
    for device in range(num_devices):
        counts = np.bincount(owners, minlength=num_devices)
        if counts[device] == 0:
            owners[rng.choice(np.flatnonzero(owners == counts.argmax()))] = device


def _dirichlet_draw(
    labels: NDArray[np.integer[Any]],
    num_devices: int,
    alpha: float,
    per_device: int,
    rng: np.random.Generator,
) -> Parts:
    """Exactly `per_device` images each, drawn without replacement by the device's own label mix.

    Mixes vary around the data's own, q ~ Dir(alpha K p) with p the shares of the K labels, as in Hsu et al.:
    with a symmetric Dirichlet the fleet would hold as much of the rarest label as of the commonest (431 of
    FER2013's 436 images of disgust on 20 devices). Labels of equal shares make it symmetric. A label that has
    run out leaves the mixes of all devices that draw after that.
    """
    stock = [list(rng.permutation(np.flatnonzero(labels == label))) for label in np.unique(labels)]
    shares = np.array([len(indices) for indices in stock]) / len(labels)
    parts = []
    for _ in range(num_devices):
        mix = np.nan_to_num(rng.dirichlet(alpha * len(stock) * shares))
        taken = [_draw_one(stock, mix, rng) for _ in range(per_device)]
        parts.append(np.sort(np.array(taken, np.intp)))
    return parts


def _draw_one(stock: list[list[np.intp]], mix: NDArray[np.float64], rng: np.random.Generator) -> np.intp:
    left = np.array([len(indices) for indices in stock], np.float64)
    chances = mix * (left > 0)
    if chances.sum() <= 0:  # every label of this device's mix has run out
        chances = left
    return stock[rng.choice(len(stock), p=chances / chances.sum())].pop()


def check_alpha(alpha: float) -> None:
    """Raises UsageError for an alpha that no label mix can be drawn with."""
    if not MIN_ALPHA <= alpha <= MAX_ALPHA:
        raise UsageError(f"expected an alpha of {MIN_ALPHA:g} to {MAX_ALPHA:g}; received {alpha}")


def _check(
    num_images: int, num_devices: int, scheme: str, alpha: float, per_device: int | None, seed: int
) -> None:
    if scheme not in SCHEMES:
        raise UsageError(f"expected a partition of {', '.join(SCHEMES)}; received {scheme!r}")
    if num_devices < 1 or (per_device is not None and per_device < 1):
        raise UsageError(
            f"expected one or more devices and examples per device; received {num_devices} and {per_device}"
        )
    if seed < 0:
        raise UsageError(f"expected a seed of at least 0; received {seed}")
    check_alpha(alpha)
    needed = num_devices * (per_device or 1)
    if num_images < needed:
        raise UsageError(
            f"{num_devices} devices need {needed} images ({per_device or 'at least 1'} each); "
            f"received {num_images}: take more images, or fewer devices"
        )
