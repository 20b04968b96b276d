import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfer.aggregator.downloads import byte_range
from fedfer.model.errors import RefusedError


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-5", (2, 6)),
        ("bytes=2-", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=9-99", (9, 10)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
    ],
)
def test_ranges_of_ten_bytes(header: str | None, expected: tuple[int, int] | None) -> None:
    assert byte_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_outside(header: str) -> None:
    with pytest.raises(RefusedError, match="of a file of 10 bytes") as caught:
        byte_range(header, 10)
    assert (caught.value.status, caught.value.code) == (416, "bad_range")


@given(first=st.integers(0, 50), last=st.integers(0, 50), size=st.integers(1, 40))
def test_a_range_is_what_slicing_gives(first: int, last: int, size: int) -> None:
    content = bytes(range(size))
    try:
        found = byte_range(f"bytes={first}-{last}", size)
    except RefusedError:
        assert first >= size
        return
    if found is None:
        assert last < first
    else:
        assert content[slice(*found)] == content[first : last + 1]
        assert found[0] < found[1] <= size
