"""Which devices get places in a round when there are more devices than places: a seeded draw.

The order depends on the run's seed, the run, the round and the devices' names, and on nothing else: not on
who asks first, nor on the ids that the server gave. So the same seed and fleet give the same selection, and
over the rounds every device is as likely to be drawn as any other (McMahan et al. 2017, Algorithm 1: "random
set of m clients").
"""

from collections.abc import Iterable
from hashlib import sha256

from fedfer.aggregator.device_store import Device


def ranked(devices: Iterable[Device], seed: int, run: str, round_number: int) -> list[str]:
    """Ids of the devices, those to choose first. Of several with one name the last counts: it has most likely
    enrolled again, and nobody is to wait for what it was before."""

    def place(device: Device) -> bytes:
        return sha256(f"{seed}/{run}/{round_number}/{device.name}".encode()).digest()

    by_name = {device.name: device for device in devices}
    return [device.id for device in sorted(by_name.values(), key=place)]
