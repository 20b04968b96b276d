"""Strategies by name: from settings as they stand in a file or a request to a strategy, strictly."""

from collections.abc import Mapping
from typing import Any

from fedfer.aggregator.strategies.base import Strategy
from fedfer.aggregator.strategies.coordinate_median import CoordinateMedian
from fedfer.aggregator.strategies.fedavg import FedAvg
from fedfer.aggregator.strategies.fedprox import FedProx
from fedfer.aggregator.strategies.krum import Krum, MultiKrum
from fedfer.aggregator.strategies.norm_bounded import NormBounded
from fedfer.aggregator.strategies.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi
from fedfer.aggregator.strategies.trimmed_mean import TrimmedMean
from fedfer.model.errors import UsageError
from fedfer.model.strict_settings import from_mapping, shown

KINDS = (
    FedAvg,
    FedProx,
    FedAvgM,
    FedAdagrad,
    FedAdam,
    FedYogi,
    CoordinateMedian,
    TrimmedMean,
    Krum,
    MultiKrum,
    NormBounded,
)
STRATEGIES: dict[str, type[Any]] = {kind.name: kind for kind in KINDS}


def make_strategy(settings: Mapping[str, object]) -> Strategy:
    """The strategy of `{"name": "fedprox", "proximal_mu": 0.1}`; settings left out have their defaults.

    Raises UsageError, which names what is unknown, of another type, or out of range.
    """
    name = settings.get("name")
    kind = STRATEGIES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise UsageError(f"strategy {shown(name)} is unknown; expected one of {', '.join(STRATEGIES)}")
    given = {key: value for key, value in settings.items() if key != "name"}
    strategy: Strategy = from_mapping(kind, given, f"strategy {name}")
    return strategy
