"""Tables for a terminal: a header, rows of text, columns as wide as their widest cell. No dependencies."""

from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int = 1) -> str:
    """Lines joined by newlines; the first `num_left` columns are flush left, the others flush right."""
    widths = column_widths(header, rows)
    return "\n".join(format_row(row, widths, num_left=num_left) for row in (header, *rows))


def column_widths(header: Sequence[str], rows: Sequence[Sequence[str]] = ()) -> list[int]:
    return [max(map(len, column)) for column in zip(header, *rows, strict=True)]


def format_row(row: Sequence[str], widths: Sequence[int], *, num_left: int = 1) -> str:
    """One line, for tables that are printed as they grow."""
    cells = zip(row, widths, strict=True)
    padded = [
        cell.ljust(width) if i < num_left else cell.rjust(width) for i, (cell, width) in enumerate(cells)
    ]
    return "  ".join(padded).rstrip()


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def decimal(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def megabytes(num_bytes: float) -> str:
    """MB of 10^6 bytes."""
    return f"{num_bytes / 1e6:.1f}"
