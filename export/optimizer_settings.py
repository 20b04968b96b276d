"""The optimizer that a phone runs, as plain data: its kind and its numbers. No TensorFlow here.

What each does is written beside its code (fedfer.export.optimizers); names and defaults are those of Keras 3.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["sgd", "adam", "adamw"]
MOMENTUM = 0.9  # of those that are asked for by the names `momentum` and `nesterov`


@dataclass(frozen=True)
class OptimizerSettings:
    """`momentum` and `nesterov` are for sgd; `beta_1`, `beta_2` and `epsilon` for adam and adamw.

    `weight_decay` shrinks every trained weight by its product with the learning rate before the step, apart
    from the gradient (Loshchilov & Hutter 2019, arXiv 1711.05101). `clip_norm` bounds the Euclidean norm of
    all gradients taken as one vector (Pascanu et al. 2013, arXiv 1211.5063); None leaves them as they are.
    """

    name: Kind = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    weight_decay: float = 0.0
    clip_norm: float | None = None

    @property
    def learning_rate(self) -> float:
        """What is suggested where nobody says otherwise."""
        return 0.02 if self.name == "sgd" else 0.001

    @property
    def num_slots(self) -> int:
        """Tensors that the optimizer remembers from step to step, for each trained weight: the velocity of
        momentum, or Adam's two moments."""
        return 2 if self.counts_steps else int(self.momentum > 0)

    @property
    def counts_steps(self) -> bool:
        """Whether it remembers how many steps it has taken (Adam's bias correction)."""
        return self.name != "sgd"

    def __str__(self) -> str:
        """For people: "sgd, momentum 0.9 (Nesterov), gradients clipped to norm 1"."""
        parts: list[str] = [self.name]
        if self.momentum:
            parts.append(f"momentum {self.momentum:g}{' (Nesterov)' if self.nesterov else ''}")
        if self.name != "sgd":
            parts.append(f"betas {self.beta_1:g} and {self.beta_2:g}, epsilon {self.epsilon:g}")
        if self.weight_decay:
            parts.append(f"weight decay {self.weight_decay:g}")
        if self.clip_norm is not None:
            parts.append(f"gradients clipped to norm {self.clip_norm:g}")
        return ", ".join(parts)


# What `fedfer export --optimizer` takes.
OPTIMIZERS = {
    "sgd": OptimizerSettings("sgd"),
    "momentum": OptimizerSettings("sgd", momentum=MOMENTUM),
    "nesterov": OptimizerSettings("sgd", momentum=MOMENTUM, nesterov=True),
    "adam": OptimizerSettings("adam"),
    "adamw": OptimizerSettings("adamw", weight_decay=0.004),
}


def optimizer_faults(settings: OptimizerSettings) -> Iterator[str]:
    """What is wrong with settings from somewhere else: any types and numbers may be in them."""
    if settings.name not in get_args(Kind):
        yield f"optimizer is not one of {', '.join(get_args(Kind))}"
    for name in ("momentum", "beta_1", "beta_2"):
        if not _is_number(getattr(settings, name)) or not 0 <= getattr(settings, name) < 1:
            yield f"{name} is not at least 0 and below 1"
    if not isinstance(settings.nesterov, bool) or (settings.nesterov and settings.momentum == 0):
        yield "nesterov is not true or false, or true without momentum"
    if settings.name != "sgd" and settings.momentum:
        yield "momentum is for sgd"
    if not _is_number(settings.epsilon) or settings.epsilon <= 0:
        yield "epsilon is not above 0"
    if not _is_number(settings.weight_decay) or not 0 <= settings.weight_decay < 1:
        yield "weight_decay is not at least 0 and below 1"
    if settings.clip_norm is not None and not (_is_number(settings.clip_norm) and settings.clip_norm > 0):
        yield "clip_norm is not above 0"


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)
