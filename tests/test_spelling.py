from __future__ import annotations

from fedfm.spelling import nearest


def test_the_most_alike_is_meant_if_it_is_alike_enough() -> None:
    known = ["accuracy", "macro_f1", "matthews"]
    assert nearest("acuracy", known) == "accuracy"
    assert nearest("mathew", iter(known)) == "matthews"
    assert nearest("loss", known) is None
    assert nearest("acc", known) is None
    assert nearest("acc", known, cutoff=0.4) == "accuracy"
    assert nearest("x", []) is None
