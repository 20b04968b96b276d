"""Recorded traces: read by hand, followed in turn, and hostile files refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfer.android_stub.simulation import traces
from fedfer.android_stub.simulation.fleets import fleet_profiles
from fedfer.android_stub.simulation.profiles import Profile
from fedfer.android_stub.simulation.traces import MAX_LINE_CHARS, read_traces
from fedfer.model.errors import DataError

HEADER = "device,start_sec,end_sec,idle,charging,unmetered"
SPEEDS = ",down_bytes_per_sec,up_bytes_per_sec"
TRACE = f"""{HEADER}{SPEEDS}
b,100,200,1,1,1,1000,100
a,0,50,1,1,1,4000,400
a,50,60,1,0,1,9,9
b,0,100,0,1,1,0,0
a,60,210,1,1,1,1000,100
c,0,210,0,0,0,5,5
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "fleet.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_trace_by_hand(tmp_path: Path) -> None:
    b, a = read_traces(written(tmp_path, TRACE))  # in the order of the file; c is never there
    assert (b.device, a.device) == ("b", "a")
    assert b.availability.windows == ((100.0, 200.0),)
    assert a.availability.windows == ((0.0, 50.0), (60.0, 210.0))
    assert b.availability.period_sec == a.availability.period_sec == 210
    assert (b.down_bytes_per_sec, b.up_bytes_per_sec) == (1000, 100)
    assert a.down_bytes_per_sec == pytest.approx((50 * 4000 + 150 * 1000) / 200)
    assert b.availability.next_at(200) == 310  # the next period


def test_devices_take_traces_in_turn_and_keep_the_rest_of_their_profile(tmp_path: Path) -> None:
    profiles = fleet_profiles([{"name": "slow", "examples_per_sec": 2}], written(tmp_path, TRACE), 3, seed=0)
    assert [profile.down_bytes_per_sec for profile in profiles] == [1000, 1750, 1000]
    assert profiles[0].availability == profiles[2].availability != profiles[1].availability
    assert {(profile.name, profile.examples_per_sec) for profile in profiles} == {("slow", 2)}


def test_without_speeds_the_profile_s_stand(tmp_path: Path) -> None:
    (profile,) = fleet_profiles(
        (), written(tmp_path, f"\ufeff{HEADER.upper()}\r\nx, 0, 9.5, 1, 1, 1\r\n\r\n"), 1, 0
    )
    assert profile.availability.is_always
    assert profile.down_bytes_per_sec == Profile.down_bytes_per_sec


GOOD = "a,0,10,1,1,1\n"
HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", ":1: expected the columns device,start_sec"),
    "other columns": ("device,start,end\n" + GOOD, ":1: expected the columns"),
    "one speed": (f"{HEADER},down_bytes_per_sec\n", ":1: expected the columns"),
    "header only": (HEADER, "expected a device that is idle, charging and unmetered; found none"),
    "never there": (f"{HEADER}\na,0,10,1,1,0\n", "found none"),
    "missing field": (f"{HEADER}\n{GOOD}a,10,20,1,1\n", ":3: expected 6 columns; found 5"),
    "no device": (f"{HEADER}\n,0,10,1,1,1\n", ":2: expected a device of 1..64 characters"),
    "long device": (f"{HEADER}\n{'x' * 65},0,10,1,1,1\n", ":2: expected a device of 1..64"),
    "word": (f"{HEADER}\na,zero,10,1,1,1\n", ":2: expected a number; found 'zero'"),
    "nan": (f"{HEADER}\na,nan,10,1,1,1\n", ":2: expected a number of 0 to 1e+09; found 'nan'"),
    "infinity": (f"{HEADER}\na,0,inf,1,1,1\n", ":2: expected a number of 0 to 1e+09; found 'inf'"),
    "negative": (f"{HEADER}\na,-1,10,1,1,1\n", ":2: expected a number of 0 to 1e+09; found '-1'"),
    "no length": (f"{HEADER}\na,5,5,1,1,1\n", ":2: expected an end after the start 5; found 5"),
    "next to no length": (
        f"{HEADER}\na,0,1e-7,1,1,1\n",
        ":2: expected an end after the start 0; found 1e-07",
    ),
    "state 2": (f"{HEADER}\na,0,5,1,2,1\n", ":2: expected charging 0 or 1; found '2'"),
    "overlap": (f"{HEADER}\n{GOOD}a,20,30,1,1,1\na,9,12,0,0,0\n", ":4: this row overlaps the one in line 2"),
    "no speed": (f"{HEADER}{SPEEDS}\na,0,5,1,1,1,0,5\n", ":2: expected speeds above 0"),
    "endless line": (f"{HEADER}\n" + "a" * (MAX_LINE_CHARS + 1), ":2: expected a line of at most 1000"),
    "UTF-16": (f"{HEADER}\n{GOOD}".encode("utf-16"), "expected a CSV in UTF-8"),
    "zeros": (bytes(100), ":1: expected the columns"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_named_by_line(tmp_path: Path, case: str) -> None:
    content, words = HOSTILE[case]
    path = written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_traces(path)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 160


def test_rows_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_ROWS", 3)
    rows = [f"a,{start},{start + 1},1,1,1" for start in range(4)]
    assert len(read_traces(written(tmp_path, "\n".join([HEADER, *rows[:3]])))) == 1
    with pytest.raises(DataError, match=r":5: expected at most 3 rows; found more"):
        read_traces(written(tmp_path, "\n".join([HEADER, *rows])))
    monkeypatch.setattr(traces, "MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match="expected at most 10 bytes; it is longer"):
        read_traces(written(tmp_path, HEADER))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*No such file"):
        read_traces(tmp_path / "absent.csv")
    with pytest.raises(DataError, match=r"cannot read .*Is a directory"):
        read_traces(tmp_path)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.text("a,01.e-n \n\r\"'", max_size=24), max_size=4), headed=st.booleans())
def test_no_text_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], headed: bool
) -> None:
    path = written(tmp_path_factory.mktemp("trace"), "\n".join([HEADER, *rows] if headed else rows))
    try:
        found = read_traces(path)
    except DataError:
        return
    assert all(trace.availability.available_sec > 0 for trace in found)
