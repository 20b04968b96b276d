"""Numbers of a report in words: shares, bytes, times. Pure."""

from fedfer.cli.progress import duration

# What codes of docs/protocol.md say that a simulation meets often.
CODES = {
    "round_over": "the round had closed before the update came",
    "too_stale": "trained from a version that is too old",
    "wrong_base": "trained from another version than the round's",
    "wrong_model": "a checkpoint of another model",
    "already_reported": "another update of this device was in already",
    "not_assigned": "the device had no work in this round",
    "not_finite": "NaN or infinity in the checkpoint",
    "out_of_range": "a variance below zero",
    "truncated": "the body ended too early",
    "norm_too_large": "a gate: a step much longer than the others'",
    "holdout_drop": "a gate: alone, it makes the model worse",
    "training_over": "the run was over",
    "aggregating": "the buffer was being averaged; sent again",
}
MANY_IMAGES = 1000  # from so many on, a second decimal of a percentage means something


def percent(share: float | None, num_images: int = 0) -> str:
    """`91.2%`, with two decimals where so many images were measured; `-` for None."""
    if share is None:
        return "-"
    return f"{share:.{2 if num_images >= MANY_IMAGES else 1}%}"


def percent_short(share: float) -> str:
    """A round level: `80%`, `99.5%`."""
    return f"{100 * share:.4g}%"


def measure(value: float | None) -> str:
    """A loss: four significant digits, never more than four decimals; `-` for None."""
    return "-" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def size(num_bytes: float) -> str:
    """`999 B`, `1.5 kB`, `20.4 MB`, `1.23 TB`: decimal units, three significant digits."""
    for unit, unit_bytes in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= unit_bytes:
            value = num_bytes / unit_bytes
            return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"
    return f"{num_bytes:.0f} B"


def seconds(value: float | None) -> str:
    """Short times to a tenth, longer ones in their two largest units; `-` for None."""
    if value is None:
        return "-"
    return f"{value:.1f} s" if value < 60 else duration(value)


def join(separator: str, *parts: str | None) -> str:
    """The parts that are there."""
    return separator.join(part for part in parts if part)


def plural(count: int, noun: str) -> str:
    """`1 device`, `1,000 devices`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
