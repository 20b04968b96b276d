"""What a run's rounds are opened with: its settings, and the fewest updates that its strategy takes."""

from dataclasses import replace

from fedfer.aggregator.config import RoundSettings, RunSettings
from fedfer.aggregator.strategies.registry import make_strategy
from fedfer.model.errors import UsageError


def opening_settings(settings: RunSettings) -> RoundSettings:
    """Settings of the next round. Raises UsageError if it would be too small for the strategy."""
    least, wanted = make_strategy(settings.strategy).min_updates, settings.rounds
    if wanted.fraction is None and wanted.num_clients < least:
        raise UsageError(
            f"clients is {wanted.num_clients}; strategy {settings.strategy['name']} needs at least {least}"
        )
    enough = max(least, wanted.min_clients) if wanted.min_clients is not None else None
    return replace(wanted, min_updates=least, min_clients=enough)
