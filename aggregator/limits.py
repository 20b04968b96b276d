"""What a server bears from its callers: plain frozen data, each default stated here and nowhere else."""

from dataclasses import dataclass

from fedfer.aggregator.rate_limits import Rate
from fedfer.model.errors import UsageError

BURST_SEC = 10.0  # a caller that was quiet may make the calls of so many seconds at once


@dataclass(frozen=True)
class Limits:
    """Calls a second in the long run: `device_rate` for each token, `address_rate` for each address (many
    phones share one behind their network's NAT) and `enrol_rate` for enrolments from it; 0 is no limit.
    This machine's own addresses have no limit: a proxy that is not named as one, or a fleet of emulated
    phones, would share it.

    An upload has `body_idle_sec` (of `ServerConfig`) + its bytes / `min_upload_bytes_per_sec` to come.
    """

    device_rate: float = 50.0
    address_rate: float = 200.0
    enrol_rate: float = 20.0
    address_connections: int = 256
    min_upload_bytes_per_sec: float = 4096.0
    trusted_proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises UsageError."""
        for name in ("device_rate", "address_rate", "enrol_rate", "min_upload_bytes_per_sec"):
            value = getattr(self, name)
            if not 0 <= value < 1e9:
                raise UsageError(f"{name.replace('_', '-')} is {value}; expected 0 (no limit) or more")
        if self.address_connections < 1:
            raise UsageError(f"address-connections is {self.address_connections}; expected 1 or more")


def rate(per_sec: float) -> Rate:
    """The bucket of a limit of so many calls a second."""
    return Rate(per_sec, max(1.0, per_sec * BURST_SEC))
