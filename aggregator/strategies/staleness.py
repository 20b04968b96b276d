"""How much a late update counts: Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous
Aggregation" (FedBuff), section 5: s(tau) = 1 / sqrt(1 + tau), tau = versions committed since its base."""

from fedfer.model.errors import UsageError


def staleness_factor(staleness: int) -> float:
    """1 for a fresh update, 0.5 for one that is three versions late. Raises UsageError below 0."""
    if staleness < 0:
        raise UsageError(f"staleness is {staleness}; expected 0 or more")
    return float((1.0 + staleness) ** -0.5)
