"""Files that two runs make at the same time, and who may delete them."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest
from waiting import PATIENCE_SEC

from fedfer.aggregator.claims import Claims

PLACE = Path("versions/abc")


def dropped(claims: Claims, named: bool = False) -> bool:
    """Whether PLACE would be deleted; says the same as what was done."""
    deleted: list[Path] = []
    answer = claims.drop_unless(lambda: named, PLACE, deleted.append)
    assert deleted == [PLACE] * answer
    return answer


def test_what_somebody_claims_or_names_stays() -> None:
    claims = Claims()
    assert dropped(claims)
    assert not dropped(claims, named=True)
    with ExitStack() as first, claims.held() as claim:
        first.enter_context(claims.held())(PLACE)
        claim(PLACE)
        claim(Path("versions/other"))
        assert not dropped(claims)
        first.close()
        assert not dropped(claims)
    assert dropped(claims)


def test_a_claim_ends_with_an_error() -> None:
    claims = Claims()

    def write() -> None:
        with claims.held() as claim:
            claim(PLACE)
            assert not dropped(claims)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert dropped(claims)


def test_nothing_is_claimed_while_it_is_decided() -> None:
    """The claim comes after the deletion, so its file is written after it."""
    claims, deciding, order = Claims(), Event(), list[str]()

    def is_named() -> bool:
        deciding.set()
        order.append("decided")
        return False

    def write() -> None:
        assert deciding.wait(PATIENCE_SEC)
        with claims.held() as claim:
            claim(PLACE)
            order.append("claimed")

    with ThreadPoolExecutor(1) as pool:
        claiming = pool.submit(write)
        assert claims.drop_unless(is_named, PLACE, lambda place: order.append("deleted"))
        claiming.result(10)
    assert order == ["decided", "deleted", "claimed"]
