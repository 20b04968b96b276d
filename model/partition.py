"""Who holds which image: labels [n] -> for each device the indices of its images.

    contiguous   device k holds the k-th run
    iid          runs of a permutation
    dirichlet    label mixes drawn from Dirichlet(alpha): `fedfer.model.dirichlet`
    shards       sorted by label, cut into shards, `shards_per_device` at random for each device: McMahan et
                 al. 2017, section 3 (arXiv 1602.05629), whose "pathological non-IID" MNIST is 2 of 200 shards
    power        random images; the device of rank r = 1, 2, ... holds a share of them proportional to
                 r^-exponent (Zipf's law), and at least one
    column       what has one value in a column of the CSV belongs to one device: one user, one device

Parts are disjoint and none is empty. The same seed gives the same parts.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.model.dirichlet import Parts, dirichlet_draw, dirichlet_split
from fedfer.model.errors import UsageError
from fedfer.model.partition_settings import PartitionSettings


def partition(
    labels: NDArray[np.integer[Any]],
    num_devices: int,
    settings: PartitionSettings,
    *,
    owners: NDArray[np.str_] | None = None,
    seed: int = 0,
) -> Parts:
    """Indices into `labels` for each of `num_devices` devices.

    `owners` (n,), for the scheme column, is whose each image is. Raises UsageError for what cannot be.
    """
    _check(len(labels), num_devices, settings, seed)
    rng = np.random.default_rng(seed)
    per_device = settings.examples_per_device
    match settings.scheme:
        case "dirichlet":
            if per_device is None:
                return dirichlet_split(labels, num_devices, settings.alpha, rng)
            return dirichlet_draw(labels, num_devices, settings.alpha, per_device, rng)
        case "power":
            return _cut(
                rng.permutation(len(labels)), power_sizes(len(labels), num_devices, settings.exponent)
            )
        case "column":
            return _by_owner(owners, num_devices, rng)
    order = np.arange(len(labels)) if settings.scheme == "contiguous" else rng.permutation(len(labels))
    if per_device is not None:
        order = order[: num_devices * per_device]
    if settings.scheme == "shards":
        return _shards(labels, np.sort(order), num_devices, settings.shards_per_device, rng)
    return list(np.array_split(order, num_devices))


def power_sizes(num_images: int, num_devices: int, exponent: float) -> NDArray[np.intp]:
    """How many images the devices of rank 1, 2, ... hold: int (num_devices,), falling, `num_images` in all.

    Each gets one, and of the rest a share proportional to rank^-exponent, rounded by largest remainders.
    """
    weights = np.arange(1, num_devices + 1, dtype=np.float64) ** -exponent
    exact = (num_images - num_devices) * weights / weights.sum()
    sizes = 1 + np.floor(exact).astype(np.intp)
    short = num_images - int(sizes.sum())
    sizes[np.argsort(np.floor(exact) - exact, kind="stable")[:short]] += 1
    return np.sort(sizes)[::-1]


def num_owners(owners: NDArray[np.str_]) -> int:
    """How many devices the partition `column` makes at most."""
    return len(np.unique(owners))


def _shards(
    labels: NDArray[np.integer[Any]],
    order: NDArray[np.intp],
    num_devices: int,
    per_device: int,
    rng: np.random.Generator,
) -> Parts:
    """Shards differ by at most one image in length; images of one label stay in the order of the source."""
    by_label = order[np.argsort(labels[order], kind="stable")]
    shards = np.array_split(by_label, num_devices * per_device)
    dealt = rng.permutation(len(shards)).reshape(num_devices, per_device)
    return [np.concatenate([shards[shard] for shard in np.sort(hand)]) for hand in dealt]


def _by_owner(owners: NDArray[np.str_] | None, num_devices: int, rng: np.random.Generator) -> Parts:
    """Devices in the order in which the source first names their owners; of more owners, a random choice."""
    if owners is None:
        raise UsageError("the partition column needs a CSV with that column; these images have none")
    _, first, codes = np.unique(owners, return_index=True, return_inverse=True)
    if len(first) < num_devices:
        raise UsageError(f"{num_devices} devices need as many values in the column; it has {len(first)}")
    chosen = rng.choice(len(first), num_devices, replace=False)
    by_code = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    return [by_code[code] for code in chosen[np.argsort(first[chosen])]]


def _cut(order: NDArray[np.intp], sizes: NDArray[np.intp]) -> Parts:
    return list(np.split(order, np.cumsum(sizes)[:-1]))


def _check(num_images: int, num_devices: int, settings: PartitionSettings, seed: int) -> None:
    if num_devices < 1:
        raise UsageError(f"expected one or more devices; received {num_devices}")
    if seed < 0:
        raise UsageError(f"expected a seed of at least 0; received {seed}")
    least = settings.least_examples
    if num_images < num_devices * least:
        each = least if settings.examples_per_device else f"at least {least}"
        raise UsageError(
            f"{num_devices} devices need {num_devices * least} images ({each} each); "
            f"received {num_images}: take more images, or fewer devices"
        )


def partition_counts(labels: NDArray[np.integer[Any]], parts: Parts, num_labels: int) -> NDArray[np.int64]:
    """How many images of each label each device holds: int64 (num_devices, num_labels)."""
    counts = [np.bincount(labels[part], minlength=num_labels) for part in parts]
    return np.array(counts, np.int64).reshape(len(parts), -1)
