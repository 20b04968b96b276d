"""What processes cost, from /proc. Linux."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

TICKS_PER_SEC = os.sysconf("SC_CLK_TCK")


def peak_memory_mb(pid: int) -> float:
    """The most resident memory that a process ever had, in MB of 10^6 bytes."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) * 1024 / 1e6


def memory_mb(pid: int) -> float:
    """Resident memory now, in MB; 0 of a process that has just ended."""
    return _kilobytes(pid, "status", "VmRSS") * 1024 / 1e6


def own_memory_mb(pid: int) -> float:
    """The same with its part of pages that processes share."""
    return _kilobytes(pid, "smaps_rollup", "Pss") * 1024 / 1e6


def _kilobytes(pid: int, file: str, name: str) -> int:
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return 0
    return sum(map(int, re.findall(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)))


def available_mb() -> float:
    """What this machine's processes may still take without swapping, in MB."""
    (kilobytes,) = re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(kilobytes) * 1024 / 1e6


def cpu_sec(pid: int) -> float:
    """Processor time of a process and of its children that have ended, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS_PER_SEC


def descendants(pid: int) -> dict[int, str]:
    """Running children, and theirs, by process id: their command lines."""
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
    found: set[int] = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return dict(_command_lines(found - {pid}))


def _command_lines(pids: Iterable[int]) -> Iterable[tuple[int, str]]:
    for pid in pids:
        try:
            yield pid, Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
