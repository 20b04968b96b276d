"""FedProx: FedAvg on the server; on the device each step also pulls towards the global weights.

Li et al. 2020, "Federated Optimization in Heterogeneous Networks", equation 2: a device minimises
F_k(w) + mu/2 ||w - w_t||^2, so mu goes to the devices with their work.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedfer.aggregator.strategies.base import require
from fedfer.aggregator.strategies.fedavg import FedAvg

MAX_MU = 1e3


@dataclass(frozen=True)
class FedProx(FedAvg):
    """`proximal_mu` 0 is FedAvg; the paper tries 0.001 to 1."""

    name: ClassVar[str] = "fedprox"
    proximal_mu: float = 0.01

    def __post_init__(self) -> None:
        require(0 <= self.proximal_mu <= MAX_MU, "proximal_mu", self.proximal_mu, f"0 to {MAX_MU:g}")

    def client_settings(self) -> Mapping[str, float]:
        return {"proximal_mu": self.proximal_mu}
