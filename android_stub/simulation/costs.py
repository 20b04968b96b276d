"""What a device's work costs in virtual seconds, from its profile alone. Pure."""

from fedfer.android_stub.simulation.profiles import Profile


def download_sec(profile: Profile, num_bytes: int) -> float:
    """One request for so many bytes: a round trip, then the bytes; nothing for what need not be fetched."""
    return profile.latency_sec + num_bytes / profile.down_bytes_per_sec if num_bytes else 0.0


def upload_sec(profile: Profile, num_bytes: int) -> float:
    return profile.latency_sec + num_bytes / profile.up_bytes_per_sec if num_bytes else 0.0


def train_sec(profile: Profile, num_examples: int, local_epochs: int) -> float:
    return num_examples * local_epochs / profile.examples_per_sec


def next_available(profile: Profile, at_sec: float) -> float:
    """The first moment from `at_sec` on at which the device is there: `at_sec`, if it is there then."""
    return profile.availability.next_at(at_sec)


def available_until(profile: Profile, at_sec: float) -> float:
    """How long it stays: infinity, if for ever; `at_sec` itself, if it is not there."""
    return profile.availability.until(at_sec)


def finish_at(profile: Profile, start_sec: float, work_sec: float) -> float:
    """When work that is begun at `start_sec` is done, if it rests while the device is away."""
    return profile.availability.finish(start_sec, work_sec)


def fits_memory(profile: Profile, peak_bytes: float) -> bool:
    """Whether a task that takes so much at its peak runs on this device; if not, Android ends the process."""
    return peak_bytes <= profile.memory_bytes
