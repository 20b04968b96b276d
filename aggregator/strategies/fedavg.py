"""FedAvg: the mean of the updates weighted by their examples (McMahan et al. 2017, Algorithm 1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedfer.aggregator.average import weighted_mean
from fedfer.aggregator.strategies.base import Aggregate, Plain
from fedfer.aggregator.update_reader import WeightedFile
from fedfer.export.contract import Contract


@dataclass(frozen=True)
class FedAvg(Plain):
    name: ClassVar[str] = "fedavg"

    def aggregate(
        self, parent: Path, updates: Sequence[WeightedFile], state: Path | None, contract: Contract
    ) -> Aggregate:
        return Aggregate(weighted_mean(updates, contract, parent))
