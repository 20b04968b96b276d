"""One name for every source of images."""

from pathlib import Path

import pytest

from fedfer.model.errors import DataError, UsageError
from fedfer.model.sources import load_images


def test_drawn_runs_are_parts_of_one_series() -> None:
    run = load_images("drawn", take=6, seed=5)
    later = load_images("drawn", skip=2, take=3, seed=5)
    assert later.images.tolist() == run.images[2:5].tolist()
    assert later.labels.tolist() == run.labels[2:5].tolist()


def test_csv_takes_skip_take_and_usage(tmp_path: Path) -> None:
    path = tmp_path / "faces.csv"
    black = " ".join(["0"] * 2304)
    usages = ["Training", "PublicTest", "Training", "Training"]
    rows = "".join(f"{i},{black},{usage}\n" for i, usage in enumerate(usages))
    path.write_text("emotion,pixels,Usage\n" + rows)
    assert load_images(str(path)).labels.tolist() == [0, 1, 2, 3]
    assert load_images(str(path), usage="Training", skip=1, take=2).labels.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"take": None}, "say how many to take"),
        ({"take": 1_000_001}, "at most 1000000"),
        ({"take": 0}, "take >= 1; received skip 0, take 0"),
        ({"take": 1, "skip": -1}, "skip >= 0"),
        ({"take": 1, "usage": "Training"}, "have no Usage; received Training"),
        ({"take": 1, "seed": -1}, "seed -1"),
    ],
)
def test_refuses_settings_that_do_not_fit(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_images("drawn", **settings)  # type: ignore[arg-type]


def test_a_source_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match=r"cannot read nowhere\.csv"):
        load_images("nowhere.csv")
