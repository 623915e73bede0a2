"""Every entry of the list of what a federation must withstand has tests, and each test's entries are in the list."""

from __future__ import annotations

from tools.trust import BEHAVIOURS, PAGE, holders, ids_of, written


def test_every_entry_has_a_test_and_every_test_an_entry() -> None:
    assert holders().keys() == BEHAVIOURS.keys()


def test_entries_are_read_from_names() -> None:
    assert ids_of("test_t09_p7_b13_a_name") == ["T09", "P7", "B13"]
    assert ids_of("test_t5_is_a_model") == ids_of("test_p1") == ids_of("test_d16_a_defect") == []


def test_the_page_lists_them() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "run `make schema`"
