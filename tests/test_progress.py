"""Progress of long work."""

from __future__ import annotations

from fedfm.progress import heard_by, stage, steps


def test_steps_are_told_under_the_name_of_the_stage_around_them() -> None:
    told: list[tuple[str, int, int | None]] = []
    with heard_by(lambda *news: told.append(news)):
        assert list(steps("ab", "reading")) == ["a", "b"]
        with stage("aligning"):
            assert list(steps(iter("c"), "distilling", 1)) == ["c"]
        assert list(steps(iter("d"), "reading")) == ["d"]
    assert told[:2] == [("reading", 0, 2), ("reading", 1, 2)]
    assert told[2:] == [("aligning", 0, None), ("aligning", 0, 1), ("reading", 0, None)]
    assert list(steps("e", "unheard")) == ["e"]
    assert len(told) == 5
