"""What attackers among the devices send: poisoned updates as pure functions of an honest one.

An attacker is given work, fetches, trains and uploads as every device does; only its examples (`label_flip`)
or the checkpoint that it trained (all other kinds) are not what they should be. With base weights w0 and
trained weights w, element by element in float32:

    label_flip   trains on labels K-1-y of K classes      (Fang et al. 2020, arXiv 1911.11815)
    sign_flip    w0 - factor * (w - w0)                   (Li et al. 2019, arXiv 1811.03761)
    scale        w0 + factor * (w - w0)                   (Bagdasaryan et al. 2020, arXiv 1807.00459)
    noise        w0 + factor * |w - w0| * g / |g|, g drawn from N(0, 1): as long as the update, any way
    nan          NaN everywhere

BatchNorm's moving means are moved like weights. Its moving variances stay as they were trained: turned around
or scaled they would fall below 0, and the upload would be refused as `out_of_range` before it does any harm.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedfer.export.checkpoint import Weights
from fedfer.export.contract import WeightSpec
from fedfer.model.data import LabelledImages
from fedfer.model.errors import UsageError
from fedfer.model.strict_settings import from_mapping, shown

KINDS = ("label_flip", "sign_flip", "scale", "noise", "nan")
MAX_FACTOR = 1e30
TINY = 1e-30
# First words of the entropy, so that what is drawn here shares no stream with training (trainer.Seeds).
_WHO, _NOISE = 11, 12


@dataclass(frozen=True)
class AttackSettings:
    """`[attack]` of a scenario: what a `share` in 0..1 of the devices does, in every round. `factor` is for
    sign_flip, scale and noise; `kind` is one of KINDS. Raises UsageError for settings that make no attack."""

    kind: str
    share: float = 0.2
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"attack: kind is {shown(self.kind)}; expected one of {', '.join(KINDS)}")
        if not 0 < self.share <= 1:
            raise UsageError(f"attack: share is {self.share!r}; expected a number above 0, at most 1")
        if not 0 < self.factor <= MAX_FACTOR:
            raise UsageError(f"attack: factor is {self.factor!r}; expected a number above 0")
        if self.kind == "scale" and self.factor == 1:
            raise UsageError("attack: scale with factor 1 is an honest update; expected another factor")


def attackers(settings: AttackSettings, num_devices: int, seed: int) -> frozenset[int]:
    """Which of the devices 0..num_devices-1 attack: the number nearest to the share, at least one; a seeded
    draw."""
    num_attackers = min(num_devices, max(1, math.floor(settings.share * num_devices + 0.5)))
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((_WHO, seed))))
    return frozenset(int(i) for i in rng.choice(num_devices, num_attackers, replace=False))


def poisoned_examples(settings: AttackSettings, examples: LabelledImages, num_classes: int) -> LabelledImages:
    """What the attacker trains on: for label_flip with labels K-1-y, else the examples as they are."""
    if settings.kind != "label_flip":
        return examples
    flipped = (num_classes - 1 - examples.labels.astype(np.int64)).astype(examples.labels.dtype)
    return LabelledImages(examples.images, flipped)


def poisoned_weights(
    settings: AttackSettings,
    base: Weights,
    trained: Weights,
    specs: Sequence[WeightSpec],
    task: tuple[int, ...],
) -> Weights:
    """What the attacker uploads; `task` (seed, device, round) seeds the noise. Inputs stay as they are."""
    if settings.kind == "label_flip":
        return trained
    moved = [spec.name for spec in specs if not spec.nonnegative]
    kept = {spec.name: trained[spec.name] for spec in specs if spec.nonnegative}
    if settings.kind == "nan":
        return {name: np.full_like(tensor, np.nan) for name, tensor in trained.items()}
    updates = {name: trained[name] - base[name] for name in moved}
    if settings.kind == "noise":
        updates = _noise(updates, task)
    factor = np.float32(-settings.factor if settings.kind == "sign_flip" else settings.factor)
    poisoned = {name: np.asarray(base[name] + factor * step, np.float32) for name, step in updates.items()}
    return {spec.name: {**poisoned, **kept}[spec.name] for spec in specs}


def norm_of(tensors: Weights) -> float:
    """The Euclidean norm of all tensors as one vector, summed in float64."""
    return math.sqrt(sum(float(np.square(t, dtype=np.float64).sum()) for t in tensors.values()))


def _noise(updates: Weights, task: tuple[int, ...]) -> Weights:
    """Gaussian noise in the shapes and of the norm of `updates`."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((_NOISE, *task))))
    drawn = {name: np.asarray(rng.standard_normal(step.shape, np.float32)) for name, step in updates.items()}
    scale = np.float32(norm_of(updates) / max(norm_of(drawn), TINY))
    return {name: np.asarray(scale * noise, np.float32) for name, noise in drawn.items()}


def attack_settings(table: Mapping[str, object]) -> AttackSettings:
    """Settings from a scenario's `[attack]`. Raises UsageError, which names the key."""
    if "kind" not in table:
        raise UsageError(f"attack has no kind; expected one of {', '.join(KINDS)}")
    return from_mapping(AttackSettings, table, "attack")
