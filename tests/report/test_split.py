"""How data is split: figures by hand, pictures, a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from fedfm.cli.split_display import WIDTH, render_split
from fedfm.errors import RecipeError, StorageError
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.report import split

TWO = [
    {"id": "a", "examples": 10, "labels": {"yes": 10, "no": 0}, "holdout": 1},
    {"id": "b", "examples": 30, "labels": {"yes": 10, "no": 20}, "holdout": 3},
]


def terminal(clients: list[dict[str, Any]], width: int = 100) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(render_split(clients))
    return capture.get()


def test_rows_are_sorted_by_size_and_know_their_commonest_label() -> None:
    b, a = split.split_table(TWO)
    assert (b.client, b.holdout, b.top) == ("b", 3, ("no", 20 / 30))
    assert a.top == ("yes", 1.0)
    assert split.SplitRow("c", 0, 0, {"yes": 0}).top is None
    assert split.SplitRow("c", 5, 0, None).top is None


def test_facts_by_hand() -> None:
    facts = split.split_facts(split.split_table(TWO))
    assert (facts.clients, facts.examples, facts.smallest, facts.median, facts.largest) == (2, 40, 10, 20.0, 30)
    assert facts.labels == ("yes", "no")
    # everybody: 1/2, 1/2. a: 1, 0, distance 1/2; b: 1/3, 2/3, distance 1/6; mean 1/3
    assert facts.skew == pytest.approx(1 / 3)
    assert facts.dominated == 1


def test_identical_clients_have_no_skew_and_disjoint_ones_nearly_all() -> None:
    alike = [{"id": str(i), "examples": 4, "labels": {"x": 1, "y": 3}, "holdout": 0} for i in range(5)]
    apart = [{"id": str(i), "examples": 4, "labels": {str(i): 4}, "holdout": 0} for i in range(5)]
    assert split.split_facts(split.split_table(alike)).skew == 0
    assert split.split_facts(split.split_table(apart)).skew == pytest.approx(4 / 5)


def test_without_labels_there_are_sizes() -> None:
    facts = split.split_facts(split.split_table([{"id": "a", "examples": 7, "labels": None, "holdout": 0}]))
    assert (facts.labels, facts.skew, facts.dominated) == ((), None, None)
    assert split.describe(facts) == ["7 examples over 1 client: 7 each."]


def test_labels_beyond_the_palette_share_its_last_colour() -> None:
    assert split.legend_labels([str(i) for i in range(10)]) == [str(i) for i in range(10)]
    legend = split.legend_labels([str(i) for i in range(11)])
    assert legend == [*(str(i) for i in range(9)), "other labels"]


def test_the_terminal_shows_every_client_and_its_share() -> None:
    text = terminal(TWO)
    assert "40 examples over 2 clients: 10 to 30 each" in text
    assert "label skew 0.33" in text
    line = next(line for line in text.splitlines() if line.startswith("b "))
    assert line.count("█") == WIDTH
    assert "no 67 %" in line
    assert "yes 100 %" in text


def test_the_terminal_shows_the_largest_and_smallest_of_many(make_run: Callable[..., RunFolder]) -> None:
    clients = jsonl.read(make_run(clients=100, rounds=1).clients)
    lines = terminal(clients).splitlines()
    assert any("… 76 more" in line for line in lines)
    assert len(lines) < 32


def test_markup_in_a_clients_name_is_only_text() -> None:
    assert "[red]x[/red]" in terminal([{"id": "[red]x[/red]", "examples": 3, "labels": {"[b]": 3}, "holdout": 0}])


@pytest.mark.charts
@pytest.mark.parametrize(
    "options", [{"clients": 3}, {"clients": 60}, {"clients": 450}, {"clients": 4, "language_model": True}]
)
def test_pictures_open(make_run: Callable[..., RunFolder], tmp_path: Path, options: dict[str, Any]) -> None:
    clients = jsonl.read(make_run(rounds=1, **options).clients)
    path = split.plot_split(clients, tmp_path / "split.png")
    with Image.open(path) as image:
        image.load()
        assert image.width > image.height
        assert len(image.getcolors(1 << 20) or []) > 5
    assert split.plot_split(clients, tmp_path / "split.svg").read_text().startswith("<?xml")


def test_pictures_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"split\.bmp: end its name in \.png, \.svg, \.pdf"):
        split.plot_split(TWO, tmp_path / "split.bmp")
    with pytest.raises(StorageError, match="cannot write"):
        split.plot_split(TWO, tmp_path / "absent" / "split.png")
