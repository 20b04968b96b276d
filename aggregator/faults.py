"""Fault points: places in the code at which a test can have the process killed, as kill -9 does.

`FEDFER_FAULT=version_written:3` kills it when it passes that point for the third time. Without the variable
passing a point costs one comparison.
"""

import os
import signal
import threading
from collections import Counter

VARIABLE = "FEDFER_FAULT"
RUN_POINTS = (  # that every run passes
    "model_kept",
    "initial_version_written",
    "run_begun",
    "device_added",
    "places_given_out",
    "place_taken",
    "upload_checked",
    "file_unfinished",
    "file_named",
    "upload_kept",
    "update_noted",
    "update_accepted",
    "round_full",
    "gates_passed",
    "averaged",
    "state_written",
    "version_written",
    "measured",
    "round_committed",
    "updates_dropped",
    "version_dropped",
)
EVALUATION_POINTS = ("parent_measured", "candidate_dropped")
UPLOAD_POINTS = ("piece_synced", "pieces_checked", "pieces_dropped")  # of one that comes in pieces
BUCKET_POINTS = ("update_sent_ahead", "file_in_bucket")
POINTS = (*RUN_POINTS, *EVALUATION_POINTS, *UPLOAD_POINTS, *BUCKET_POINTS)
passes: Counter[str] = Counter()  # how often each point was passed while a variable was set
_counting = threading.Lock()
_wanted: tuple[str, int] | None = None


def arm(text: str | None) -> None:
    """Sets where to die: `POINT:N`, `none` to count passes only, None for neither."""
    global _wanted
    point, _, number = (text or "").partition(":")
    assert point in ("", "none", *POINTS), point
    _wanted = None if text is None else (point, int(number or 0))


def reach(point: str) -> None:
    """Passes a point, or dies there."""
    if _wanted is None:
        return
    with _counting:
        passes[point] += 1
        if (point, passes[point]) == _wanted:
            os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get(VARIABLE))
