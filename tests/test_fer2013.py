"""Reading FER2013: the three layouts that Kaggle has shipped, and what can be wrong with a file."""

import gzip
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfer.model import fer2013
from fedfer.model.errors import DataError
from fedfer.model.fer2013 import MAX_LINE_BYTES, read_fer2013

REAL = Path(__file__).parents[1] / "../shared/data/fer2013/train.csv.gz"


def pixels(start: int) -> str:
    """2,304 numbers that count up from `start`, modulo 256."""
    return " ".join(str((start + i) % 256) for i in range(2304))


TRAIN = f"emotion,pixels\n3,{pixels(0)}\n6,{pixels(7)}\n"
LAYOUTS = {
    "train": TRAIN,
    "quoted": f'emotion,pixels\r\n"3","{pixels(0)}"\r\n"6","{pixels(7)}"\r\n',
    "fer2013": f"emotion,pixels,Usage\n3,{pixels(0)},Training\n6,{pixels(7)},PublicTest\n",
    "icml": f"emotion, Usage, pixels\n3,Training,{pixels(0)}\n6,PublicTest,{pixels(7)}\n",
    "byte order mark, no last newline": "\ufeff" + TRAIN.rstrip(),
    "blank lines": TRAIN.replace("\n", "\n\n"),
}


def written(folder: Path, text: str | bytes, *, zipped: bool = False) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path = folder / ("faces.csv.gz" if zipped else "faces.csv")
    path.write_bytes(gzip.compress(data, 1) if zipped else data)
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_hold_the_same_images(tmp_path: Path, layout: str, zipped: bool) -> None:
    data = read_fer2013(written(tmp_path, LAYOUTS[layout], zipped=zipped))
    assert data.images.dtype == data.labels.dtype == np.uint8
    assert data.images.shape == (2, 48, 48, 1)
    assert data.labels.tolist() == [3, 6]
    assert data.images[0, 0, :3, 0].tolist() == [0, 1, 2]
    assert data.images[0, 1, 0, 0] == 48  # row by row
    assert data.images[1, 0, 0, 0] == 7


@pytest.mark.parametrize("layout", ["fer2013", "icml"])
def test_usage_chooses_rows(tmp_path: Path, layout: str) -> None:
    path = written(tmp_path, LAYOUTS[layout])
    assert read_fer2013(path, usage="Training").labels.tolist() == [3]
    assert read_fer2013(path, usage="PublicTest", take=1).labels.tolist() == [6]
    with pytest.raises(
        DataError, match=r"at least one image\(s\) with Usage PrivateTest after the first 0; found 0"
    ):
        read_fer2013(path, usage="PrivateTest")


def test_skip_and_take_give_runs(tmp_path: Path) -> None:
    rows = "".join(f"{i % 7},{pixels(i)}\n" for i in range(10))
    path = written(tmp_path, "emotion,pixels\n" + rows)
    data = read_fer2013(path, skip=2, take=3)
    assert data.labels.tolist() == [2, 3, 4]
    assert data.images[:, 0, 0, 0].tolist() == [2, 3, 4]
    assert len(read_fer2013(path, skip=9)) == 1
    with pytest.raises(DataError, match=r"expected 3 image\(s\) after the first 8; found 2"):
        read_fer2013(path, skip=8, take=3)


def test_a_first_row_that_is_no_header_is_shown_in_part(tmp_path: Path) -> None:
    path = written(tmp_path, f"0,{pixels(0)}\n")
    with pytest.raises(DataError, match=r":1: expected one column emotion .* found \['0', '0 1 2") as caught:
        read_fer2013(path)
    assert len(str(caught.value)) < len(str(path)) + 150


HEADER = b"emotion,pixels\n"
GOOD = b"3," + pixels(0).encode() + b"\n"
TAIL = pixels(1).split(" ", 1)[1].encode() + b"\n"  # all but the first pixel
MALFORMED = {
    "one pixel short": (HEADER + GOOD + b"3," + TAIL, ":3: expected 2304 pixels; found 2303"),
    "one pixel more": (HEADER + b"3,1 2 " + TAIL, ":2: expected 2304 pixels; found 2305"),
    "no pixels": (HEADER + GOOD + b"3,\n", ":3: expected 2304 pixels; found 0"),
    "pixel 256": (HEADER + GOOD + GOOD + b"3,256 " + TAIL, ":4: expected pixels 0..255; found 256"),
    "pixel beyond 64 bits": (HEADER + b"3," + b"9" * 30 + b" " + TAIL, ":2: expected pixels 0..255; found"),
    "negative pixel": (HEADER + b"3,-1 " + TAIL, ":2: expected pixels as whole numbers; found '-'"),
    "fraction": (HEADER + b"3,1.5 " + TAIL, ":2: expected pixels as whole numbers; found '.'"),
    "word": (HEADER + b"3,nan " + TAIL, ":2: expected pixels as whole numbers; found 'nan'"),
    "label 7": (HEADER + b"7," + GOOD[2:], ":2: expected an emotion 0..6; found '7'"),
    "label -1": (HEADER + b"-1," + GOOD[2:], ":2: expected an emotion 0..6; found '-1'"),
    "no label": (HEADER + b"," + GOOD[2:], ":2: expected an emotion 0..6; found ''"),
    "label of 5,000 digits": (
        HEADER + b"1" * 5000 + b"," + GOOD[2:],
        ":2: expected an emotion 0..6; found '111",
    ),
    "extra field": (HEADER + b"3,Training," + GOOD[2:], ":2: expected 2 columns; found 3"),
    "missing field": (HEADER + GOOD[2:], ":2: expected 2 columns; found 1"),
    "no pixels column": (b"emotion,Usage\n3,Training\n", ":1: expected one column pixels; found"),
    "no emotion column": (b"pixels\n" + GOOD[2:], ":1: expected one column emotion; found"),
    "no header": (GOOD, ":1: expected one column emotion and one column pixels; found"),
    "empty": (b"", ":1: expected one column emotion"),
    "header only": (HEADER, "expected at least one image"),
    "UTF-16": (TRAIN.encode("utf-16"), ":1: expected a CSV in UTF-8"),
    "binary pixels": (HEADER + b"3,\xff\xfe " + TAIL, ":2: expected pixels as whole numbers"),
    "endless line": (
        HEADER + b"3," + b"0 " * MAX_LINE_BYTES,
        f":2: expected a line of at most {MAX_LINE_BYTES}",
    ),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_rows_are_named_by_file_and_line(tmp_path: Path, case: str, zipped: bool) -> None:
    content, words = MALFORMED[case]
    path = written(tmp_path, content, zipped=zipped)
    with pytest.raises(DataError) as caught:
        read_fer2013(path)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    whole = gzip.compress(TRAIN.encode())
    path = tmp_path / "faces.csv.gz"
    for damaged in (
        whole[:-9],
        whole[:100],
        whole[:40] + b"\0\0\0\0" + whole[44:],
        b"emotion,pixels\n",
        b"\x1f\x8b",
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"faces\.csv\.gz is not a complete gzip file"):
            read_fer2013(path)
    with pytest.raises(DataError, match="No such file"):
        read_fer2013(tmp_path / "absent.csv")
    with pytest.raises(DataError, match=r"cannot read .*Is a directory"):
        read_fer2013(tmp_path)


def test_a_column_says_whose_an_image_is(tmp_path: Path) -> None:
    rows = [("3", "ann"), ("6", '"ben  "'), ("0", "ärztin")]
    text = "emotion, pixels, Subject\n" + "".join(f"{label},{pixels(0)},{who}\n" for label, who in rows)
    data = read_fer2013(written(tmp_path, text), owner_column="subject", skip=1)
    assert data.owners is not None
    assert data.owners.tolist() == ["ben", "ärztin"]
    assert data.take(np.array([1])).owners == ["ärztin"]
    assert read_fer2013(written(tmp_path, text)).owners is None
    with pytest.raises(
        DataError, match=r":1: expected one column user; found \['emotion', 'pixels', 'subject"
    ):
        read_fer2013(written(tmp_path, text), owner_column="user")


@pytest.mark.parametrize(
    ("who", "words"),
    [
        (b"", ":2: expected 1..64 bytes in user; found 0"),
        (b"x" * 65, ":2: expected 1..64 bytes in user; found 65"),
        (b"\xff\xfe", ":2: expected UTF-8 in user; found"),
    ],
)
def test_hostile_owners(tmp_path: Path, who: bytes, words: str) -> None:
    content = b"emotion,pixels,user\n3," + pixels(0).encode() + b"," + who + b"\n"
    with pytest.raises(DataError, match=words):
        read_fer2013(written(tmp_path, content), owner_column="user")


def test_usage_needs_its_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=":1: expected a column Usage to choose Training by"):
        read_fer2013(written(tmp_path, TRAIN), usage="Training")


def test_decompression_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fer2013, "MAX_FILE_BYTES", 1_000_000)
    path = written(tmp_path, HEADER + b"\n" * 2_000_000, zipped=True)
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match="expected at most 1000000 bytes after decompression"):
        read_fer2013(path)


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=300), zipped=st.booleans(), headed=st.booleans())
def test_no_bytes_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, zipped: bool, headed: bool
) -> None:
    path = written(tmp_path_factory.mktemp("bytes"), (HEADER if headed else b"") + content, zipped=zipped)
    with pytest.raises(DataError):
        read_fer2013(path)


@pytest.mark.skipif(not REAL.exists(), reason="FER2013 is not here: it may not be redistributed")
def test_the_real_training_split() -> None:
    started = time.process_time()
    data = read_fer2013(REAL)
    cpu_sec = time.process_time() - started
    assert data.images.shape == (28_709, 48, 48, 1)
    assert np.bincount(data.labels).tolist() == [3995, 436, 4097, 7215, 4830, 3171, 4965]
    assert data.images.mean(dtype=np.float64) / 255 == pytest.approx(0.5077, abs=5e-5)
    assert cpu_sec < 15  # about 4 s on a Xeon core; the bound only catches a slip to parsing in Python
    assert read_fer2013(REAL, skip=28_000, take=2).images.tolist() == data.images[28_000:28_002].tolist()
