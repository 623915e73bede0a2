"""Hostile names, reasons and classes on every page that is made from a run's folder."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fedfm.cli.output import console
from fedfm.cli.split_display import render_split
from fedfm.cli.status_display import render_status
from fedfm.records import jsonl, ledger
from fedfm.records.folder import RunFolder
from fedfm.records.status import run_status
from fedfm.report.card import Base, write_card
from fedfm.report.page import write_report
from fedfm.report.sections.wire import SHOWN
from tests.hostile import TEXT, UNSAFE, assert_shown
from tests.report.test_card import RECIPE, SUMMARY
from tests.report.test_page import Page

pytestmark = pytest.mark.charts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run all of whose names are hostile."""
    from tests.run_folders import write_run

    found = write_run(tmp_path_factory.mktemp("hostile") / "run", clients=6, rounds=3)
    clients = jsonl.read(found.clients)
    for row in clients:
        row["id"] += TEXT
        row["labels"] = {label + TEXT: count for label, count in row["labels"].items()}
    found.write_json(found.clients, clients)
    for path in (found.metrics, found.events, found.wire):
        lines = list(jsonl.records(path))
        path.unlink()
        for line in lines:
            if line.get("client"):
                line["client"] += TEXT
            found.append(path, line)
    for kind in ("refused", "failed", TEXT):
        found.append(found.events, {"round": 1, "kind": kind, "client": f"0001{TEXT}", "reason": TEXT * 999})
    names = {f"{TEXT}{number}": torch.empty(0) for number in range(1_000)}
    found.append(found.wire, ledger.message_record(1, "up", [TEXT], 9, names))
    summary = jsonl.read(found.summary)
    found.write_json(found.summary, summary | {"name": TEXT, "labels": [TEXT], "status": TEXT})
    recipe = yaml.safe_load(found.recipe.read_text())
    text = TEXT.replace("\0", "")  # which no recipe may say
    found.write_text(found.recipe, yaml.safe_dump(recipe | {"name": text, "data": {"train": text}}, allow_unicode=True))
    return found


def test_its_files_hold_nothing_unsafe_and_are_read_as_they_were_written(folder: RunFolder) -> None:
    for path in (folder.clients, folder.metrics, folder.events, folder.wire, folder.summary):
        assert not UNSAFE & set(path.read_text(encoding="utf-8"))
    assert list(jsonl.records(folder.events))[-1]["kind"] == TEXT
    assert list(jsonl.records(folder.wire))[-1]["clients"] == [TEXT]


def test_s06_the_report_is_a_page_of_its_own_words_and_of_a_size(folder: RunFolder) -> None:
    html = write_report(folder.path).read_text(encoding="utf-8")
    page = Page(html)
    assert_shown(html)
    assert {"script", "img"}.isdisjoint(page.tags)
    assert "<script>alert(1)</script>" in page.text
    assert len(html) < 1_000_000
    assert html.count("<wbr>") < 10 * SHOWN
    assert "more are in wire.jsonl" in page.text


def test_the_status_is_safe_on_the_terminal(folder: RunFolder) -> None:
    terminal = console()
    terminal.file = out = StringIO()
    terminal.print(render_status(run_status(folder.path)))
    assert_shown(out.getvalue())
    assert len(out.getvalue()) < 40_000


def test_the_split_is_safe_on_the_terminal(folder: RunFolder) -> None:
    terminal = console()
    terminal.file = out = StringIO()
    terminal.print(render_split(jsonl.read(folder.clients)))
    assert_shown(out.getvalue())


def card(folder: Path, name: str, package: str | None = None, **changes: Any) -> str:
    recipe = RECIPE | {"name": name, "data": {"text": ("text",), "labels": [name]}, "model": {"path": name}}
    recipe["model"] |= {"revision": name}
    summary = SUMMARY | {"name": name, "labels": [name, "ok"]} | changes
    base = Base(name, revision=name, mask=name, package=package)
    path = write_card(folder, base=base, summary=summary, recipe=recipe, kind="adapter")
    return path.read_text(encoding="utf-8")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.just(TEXT), st.text(st.sampled_from("a`_*<>|[](){}#~\"'\\\n -:é\x1b\u202e"), min_size=1)),
    st.booleans(),
)
def test_a_card_says_names_and_nothing_else(tmp_path: Path, name: str, package: bool) -> None:
    text = card(tmp_path, name, package=name if package else None)
    assert not UNSAFE & set(text)
    assert "base_model" not in ModelCard(text).data.to_dict() or re.fullmatch(r"[\w.-]+", name)
    page = MarkdownIt("commonmark").enable("table").render(ModelCard(text).text)
    assert re.findall("<(h1|h2|script|img|a|del)\\b", page) == ["h1"] + ["h2"] * 5
    fence, recipe = re.search(r"^(```+)yaml\n(.*?)^\1$", text, re.DOTALL | re.MULTILINE).groups()  # type: ignore[union-attr]
    assert text.endswith(f"\n{fence}\n")
    assert yaml.safe_load(recipe)["data"]["labels"] == [name]
    code = re.search(r"```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert code is not None
    compile(code[1], "card", "exec")


def test_a_card_of_plain_names_is_plain(tmp_path: Path) -> None:
    text = card(tmp_path, "größe")
    assert "# größe\n" in text
    assert "`größe`, `ok`" in text
    assert 'revision="größe"' in text
    assert "- größe\n" in text


def test_ten_thousand_events_make_a_small_report(folder: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder.create(tmp_path / "run")
    copy.write_text(copy.recipe, folder.recipe.read_text(encoding="utf-8"))
    event = json.dumps({"round": 1, "kind": "refused", "client": "a", "reason": TEXT * 9}) + "\n"
    copy.events.write_text(event * 10_000)
    assert write_report(copy.path).stat().st_size < 500_000
