"""Label mixes drawn from Dirichlet(alpha): labels [n] -> for each device the indices of its images.

Hsu, Qi and Brown 2019, "Measuring the Effects of Non-Identical Data Distribution" (arXiv 1909.06335).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer[Any]]
Parts = list[NDArray[np.intp]]


def dirichlet_split(labels: Labels, num_devices: int, alpha: float, rng: np.random.Generator) -> Parts:
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


def dirichlet_draw(
    labels: Labels, num_devices: int, alpha: float, per_device: int, rng: np.random.Generator
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


def _fill_empty(owners: NDArray[np.intp], num_devices: int, rng: np.random.Generator) -> None:
    """Gives each device without images one of the device that has most: a device must train on something."""
    for device in range(num_devices):
        counts = np.bincount(owners, minlength=num_devices)
        if counts[device] == 0:
            owners[rng.choice(np.flatnonzero(owners == counts.argmax()))] = device


def _draw_one(stock: list[list[np.intp]], mix: NDArray[np.float64], rng: np.random.Generator) -> np.intp:
    left = np.array([len(indices) for indices in stock], np.float64)
    chances = mix * (left > 0)
    if chances.sum() <= 0:  # every label of this device's mix has run out
        chances = left
    return stock[rng.choice(len(stock), p=chances / chances.sum())].pop()
