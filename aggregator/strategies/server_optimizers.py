"""Server optimizers: the round's mean step taken as a gradient, with memory from round to round.

Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2, with x_t the parent, x_k the updates,
and Delta weighted by examples as in FedAvg:

    Delta_t = sum_k n_k (x_k - x_t) / sum_k n_k
    m_t = beta1 m_{t-1} + (1 - beta1) Delta_t                            m_{-1} = 0
    v_t = v_{t-1} + Delta_t^2                                 FedAdagrad v_{-1} = tau^2
    v_t = v_{t-1} - (1 - beta2) Delta_t^2 sign(v_{t-1} - Delta_t^2)      FedYogi
    v_t = beta2 v_{t-1} + (1 - beta2) Delta_t^2                          FedAdam
    x_{t+1} = x_t + eta m_t / (sqrt(v_t) + tau)

FedAvgM (Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", section 4.3): m_t = beta m_{t-1} + Delta_t, x_{t+1} = x_t + eta m_t.

Computed in float64; weights and moments are rounded to float32 once a round. BatchNorm statistics are not
learned by gradient: they become the updates' weighted mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedfer.aggregator.average import mean_tensors
from fedfer.aggregator.strategies.base import Aggregate, Plain, require
from fedfer.aggregator.strategies.moments import moments_bytes, opened_moments
from fedfer.aggregator.update_reader import WeightedFile, in_order
from fedfer.export.checkpoint import Weights, checked_tensors
from fedfer.export.contract import Contract

MAX_RATE = 1e3
BLOCK_ELEMENTS = 1 << 16  # a step makes half a dozen arrays in float64: of a block, not of a tensor
Tensor = NDArray[np.float64]


@dataclass(frozen=True)
class ServerOptimizer(Plain):
    """What the four have in common. `moments` names what is kept of every trainable tensor."""

    name: ClassVar[str]
    moments: ClassVar[tuple[str, ...]] = ("m", "v")

    def check_state(self, state: Path, contract: Contract) -> None:
        with opened_moments(state, self.name, self.moments, contract):
            pass

    def aggregate(
        self, parent: Path, updates: Sequence[WeightedFile], state: Path | None, contract: Contract
    ) -> Aggregate:
        weights: Weights = {}
        after: Weights = {}
        with opened_moments(state, self.name, self.moments, contract) as before:
            means = mean_tensors(in_order(updates), contract, parent, np.float64)
            for (weight, mean), (_, start) in zip(means, checked_tensors(parent, contract), strict=True):
                if weight.role == "statistic":
                    weights[weight.name] = mean.astype(np.float32)
                    continue
                names = [f"{moment}/{weight.name}" for moment in self.moments]
                memory = [_moment(before(name), mean, i) for name, i in zip(names, self.start, strict=True)]
                self._move(mean, start, memory)
                weights[weight.name] = _float32(mean)
                after |= dict(zip(names, memory, strict=True))
        return Aggregate(weights, moments_bytes(after, self.name, contract))

    def _move(self, mean: Tensor, start: NDArray[np.float32], memory: Sequence[NDArray[np.float32]]) -> None:
        """One round of one tensor, block by block: `mean` becomes x_{t+1}, `memory` the new moments."""
        flat, origin, moments = mean.reshape(-1), start.reshape(-1), [m.reshape(-1) for m in memory]
        for first in range(0, flat.size, BLOCK_ELEMENTS):
            block = slice(first, first + BLOCK_ELEMENTS)
            delta = flat[block] - origin[block]
            step, kept = self.step(delta, [m[block].astype(np.float64) for m in moments])
            flat[block] = origin[block] + step
            for moment, new in zip(moments, kept, strict=True):
                moment[block] = _float32(new)

    @property
    def start(self) -> tuple[float, ...]:
        """What every element of each moment is before the first round."""
        raise NotImplementedError

    def step(self, delta: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x_{t+1} - x_t and the new moments, from Delta_t and the moments before."""
        raise NotImplementedError


@dataclass(frozen=True)
class FedAvgM(ServerOptimizer):
    """`momentum` is beta, `server_learning_rate` eta; momentum 0 with rate 1 is FedAvg."""

    name: ClassVar[str] = "fedavgm"
    moments: ClassVar[tuple[str, ...]] = ("m",)
    server_learning_rate: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _require_rate(self.server_learning_rate)
        _require_decay("momentum", self.momentum)

    @property
    def start(self) -> tuple[float, ...]:
        return (0.0,)

    def step(self, delta: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        moment = self.momentum * memory[0] + delta
        return self.server_learning_rate * moment, (moment,)


@dataclass(frozen=True)
class FedAdagrad(ServerOptimizer):
    """`beta1` 0 as in the paper's experiments (its appendix D)."""

    name: ClassVar[str] = "fedadagrad"
    server_learning_rate: float = 0.01
    beta1: float = 0.0
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _require_rate(self.server_learning_rate)
        _require_decay("beta1", self.beta1)
        _require_tau(self.tau)

    @property
    def start(self) -> tuple[float, ...]:
        return 0.0, self.tau**2

    def step(self, delta: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        m = self.beta1 * memory[0] + (1 - self.beta1) * delta
        v = self.second(memory[1], np.square(delta))
        return self.server_learning_rate * m / (np.sqrt(v) + self.tau), (m, v)

    def second(self, v: Tensor, squared: Tensor) -> Tensor:
        """v_t from v_{t-1} and Delta_t^2."""
        return v + squared


@dataclass(frozen=True)
class FedAdam(FedAdagrad):
    name: ClassVar[str] = "fedadam"
    beta1: float = 0.9
    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_decay("beta2", self.beta2)

    def second(self, v: Tensor, squared: Tensor) -> Tensor:
        return self.beta2 * v + (1 - self.beta2) * squared


@dataclass(frozen=True)
class FedYogi(FedAdam):
    name: ClassVar[str] = "fedyogi"

    def second(self, v: Tensor, squared: Tensor) -> Tensor:
        change: Tensor = (1 - self.beta2) * squared * np.sign(v - squared)
        return v - change


def _moment(stored: NDArray[np.float32] | None, like: Tensor, start: float) -> NDArray[np.float32]:
    """What was kept of a tensor; in the first round what its elements start from."""
    return np.full(like.shape, start, np.float32) if stored is None else stored


def _require_rate(rate: float) -> None:
    require(0 < rate <= MAX_RATE, "server_learning_rate", rate, f"above 0, at most {MAX_RATE:g}")


def _require_decay(name: str, value: float) -> None:
    require(0 <= value < 1, name, value, "0 or more, below 1")


def _require_tau(tau: float) -> None:
    require(1e-12 <= tau <= 1, "tau", tau, "1e-12 to 1")


def _float32(tensor: Tensor) -> NDArray[np.float32]:
    """Rounded, and finite where a number has left float32's range: a candidate that went so far is for the
    holdout set to turn down, not a file that nobody can read."""
    limit = float(np.finfo(np.float32).max)
    return np.asarray(np.clip(tensor, -limit, limit), np.float32)
