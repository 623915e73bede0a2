"""report.html: one complete file that names missing data and is safe for any name."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml

from fedfm.errors import DataError, RecipeError, StorageError
from fedfm.records import jsonl, ledger
from fedfm.records.folder import RunFolder
from fedfm.records.reading import read_run
from fedfm.report.page import write_report

MakeRun = Callable[..., RunFolder]

VOID = {"meta", "br", "wbr", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that elements nest, and collects text, ids and whatever could be loaded."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for key, value in attrs if key == "id"]
        self.links += [value or "" for key, value in attrs if key in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def written(folder: RunFolder) -> Page:
    path = write_report(folder.path)
    assert path == folder.report
    return Page(path.read_text(encoding="utf-8"))


@pytest.mark.charts
@pytest.mark.parametrize(
    "options",
    [
        {"clients": 100, "rounds": 30},
        {"clients": 5, "rounds": 12, "faults": False},
        {"clients": 40, "rounds": 5, "language_model": True},
        {"clients": 5, "rounds": 1, "language_model": True, "per_client": False},
        {"clients": 700, "rounds": 100, "status": "interrupted"},
        {"clients": 5, "rounds": 21, "proxy": "fedpft"},
        {"clients": 5, "rounds": 2, "proxy": "offsite", "language_model": True},
    ],
    ids=["100 clients", "5 clients", "language model", "one round", "interrupted", "FedPFT", "offsite"],
)
def test_a_report_is_well_formed_and_needs_nothing_but_itself(make_run: MakeRun, options: dict[str, object]) -> None:
    page = written(make_run(**options))
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert page.tags.count("svg") == page.tags.count("title") - 1 > 0


def test_no_style_loads_anything(make_run: MakeRun) -> None:
    html = write_report(make_run(clients=5, rounds=2).path).read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/)", html)
    assert "prefers-color-scheme: dark" in html


def test_the_outcome_comes_first(make_run: MakeRun) -> None:
    folder = make_run(clients=5, rounds=4, faults=False)
    summary = read_run(folder).summary
    assert summary is not None
    summary |= {"final": {"accuracy": 0.8714, "loss": 0.4}, "initial": {"accuracy": 0.5021, "loss": 0.7}}
    summary |= {"seconds": {"total": 252.0, "train": 189.0, "evaluate": 50.4}, "baselines": {"majority": 0.52}}
    summary["best"] = {"round": 3, "split": "validation", "metrics": {"accuracy": 0.88}}
    folder.write_json(folder.summary, summary)
    text = written(folder).text
    assert "Test accuracy 87.1 % +36.9 points from 50.2 % before round 1" in text
    assert "best: 88.0 % on validation after round 3" in text
    assert "Before round 1 50.2 % Most frequent class 52.0 % This run 87.1 %" in text
    assert "4 min 12 s train 75 %, evaluate 20 %" in text
    assert "ε = ∞ no differential privacy" in text
    assert text.index("87.1 %") < text.index("accuracy against rounds")


def test_bars_are_as_long_as_their_values(make_run: MakeRun) -> None:
    folder = make_run(clients=5, rounds=2)
    widths = re.findall(r'class="bar" style="width: ([\d.]+)%"', folder_html(folder))
    summary = read_run(folder).summary
    assert summary is not None
    expected = [summary["initial"]["accuracy"], 0.214, 0.412, 0.803, summary["final"]["accuracy"]]
    assert [float(width) for width in widths] == pytest.approx([100 * value for value in expected], abs=0.01)


def folder_html(folder: RunFolder) -> str:
    return write_report(folder.path).read_text(encoding="utf-8")


def test_every_section_tells_its_part(make_run: MakeRun) -> None:
    text = written(make_run("pydoc-lora", clients=60, rounds=10)).text
    for words in (
        "Accuracy against rounds",
        "Accuracy against bytes",
        "Loss against seconds",
        "examples over 60 clients",
        "The model of round 10 on examples that 60 clients held out",
        "Worst 10 %",
        "base_model.model.bert.encoder.layer. * .attention".replace(" ", ""),
        "1 × refused , 1 × resume",
        "not finite: 3 of 26 tensors",
        "no differential privacy (ε = ∞): the parameters may reveal information about the examples",
        "fedfm run runs/pydoc-lora/recipe.yaml name=pydoc-lora-again",
        "pip install torch==",
        "target_modules: attention",
    ):
        assert words.replace(" ", "").lower() in text.replace(" ", "").lower(), words


def test_what_is_to_be_known_of_the_data_stands_beside_it(make_run: MakeRun) -> None:
    folder = make_run(clients=5, rounds=1)
    summary = jsonl.read(folder.summary)
    folder.write_json(folder.summary, summary | {"warnings": ["4 of 9 test examples <also> stand"]})
    page = write_report(folder.path).read_text()
    assert '<p class="notice">4 of 9 test examples &lt;also&gt; stand' in page


def test_encoded_tensors_and_messages_between_clients_are_explained(make_run: MakeRun) -> None:
    folder = make_run(clients=3, rounds=1, faults=False)
    names = ["bert.layer.0.lora_A", "bert.layer.1.lora_A", "classifier.weight"]
    params = {"values": torch.zeros(9, dtype=torch.int8)}
    folder.append(folder.wire, ledger.message_record(1, "peer", ["0000", "0001"], 99, params, names=names))
    text = written(folder).text
    assert "encodes bert.layer.*.lora_A , classifier.weight" in text
    assert "up: clients to server or to other clients" in text
    assert "Between clients 99 B" in text


def test_the_wire_table_adds_up(make_run: MakeRun) -> None:
    folder = make_run(clients=3, rounds=2, faults=False, hidden=4)
    # head: 8 × 4 float32 = 128 B, to 3 clients in 2 rounds = 768 B each way
    assert "classifier.weight 1 8 × 4 float32 768 B 768 B" in written(folder).text.replace(". ", ".")


def test_perplexity_falls(make_run: MakeRun) -> None:
    text = written(make_run(clients=5, rounds=6, language_model=True)).text
    assert re.search(r"Test perplexity [\d.]+ −\d\d\.\d % from \d+", text)
    assert "label skew" not in text
    assert "most frequent label" not in text


def test_a_proxy_is_told_where_there_is_one(make_run: MakeRun) -> None:
    page = written(make_run("with", clients=5, rounds=21, proxy="fedpft"))
    assert "proxy" in page.ids
    for words in (
        "a compressed model in place of the backbone (FedPFT)",
        "7.10 M parameters, 66.7 % of the backbone’s 10.6 M",
        "Gradient while it was fitted",
        "Gradient while it was tuned",
        "Error of blocks’ outputs",
        "before alignment 20 0.460",
    ):
        assert words in page.text
    without = written(make_run("without", clients=5, rounds=2))
    assert "proxy" not in without.ids
    assert "in place of the backbone" not in without.text


def test_a_proxy_that_was_never_probed_is_told_as_such(make_run: MakeRun) -> None:
    folder = make_run(clients=5, rounds=2, proxy="offsite")
    folder.metrics.unlink()
    text = written(folder).text
    assert "(offsite tuning)" in text
    assert "It was not compared with the backbone" in text


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("metrics.jsonl", "Nothing was measured"),
        ("clients.json", "the split is not known"),
        ("wire.jsonl", "the messages are not known"),
        ("events.jsonl", "No client failed"),
        ("summary.json", "has not ended, or was killed"),
        ("env.json", "Privacy"),
    ],
)
def test_what_is_missing_is_said(make_run: MakeRun, file: str, sentence: str) -> None:
    folder = make_run(clients=5, rounds=3)
    (folder.path / file).unlink()
    assert sentence in written(folder).text


def test_a_run_that_has_hardly_begun_has_a_report(make_run: MakeRun) -> None:
    folder = make_run(clients=5, rounds=1)
    for path in folder.path.iterdir():
        if path.name != "recipe.yaml":
            path.unlink()
    text = written(folder).text
    assert "the versions are not known" in text
    assert "Clients were not evaluated one by one" in text


def test_an_unfinished_run_is_told_from_its_metrics(make_run: MakeRun) -> None:
    folder = make_run(clients=5, rounds=8, status="interrupted")
    folder.summary.unlink()
    page = written(folder)
    last = read_run(folder).rows("test")[-1]
    assert f"Test accuracy {100 * last['accuracy']:.1f} %" in page.text
    assert "fedfm resume runs/synthetic" in page.text


@pytest.mark.charts
def test_names_cannot_break_out_of_the_page(make_run: MakeRun) -> None:
    folder = make_run(clients=5, rounds=2)
    evil = '"><script>alert(1)</script>$\\frac{'
    clients = read_run(folder).clients
    clients[0]["id"] = evil
    clients[0]["labels"] = {evil: 900}
    folder.write_json(folder.clients, clients)
    folder.append(folder.events, {"round": 2, "kind": "refused", "client": evil, "reason": evil})
    recipe = yaml.safe_load(folder.recipe.read_text()) | {"name": evil}
    folder.write_text(folder.recipe, yaml.safe_dump(recipe))
    page = written(folder)
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.charts
def test_losses_that_were_not_finite_leave_a_gap(make_run: MakeRun) -> None:
    folder = make_run(clients=5, rounds=3)
    folder.append(
        folder.metrics,
        {"round": 4, "split": "test", "client": None, "loss": float("nan"), "accuracy": None, "seconds": 50},
    )
    assert "4 –" in written(folder).text


@pytest.mark.charts
def test_writing_again_changes_nothing(make_run: MakeRun) -> None:
    folder = make_run(clients=30, rounds=3)
    assert folder_html(folder) == folder_html(folder)


def test_differential_privacy_is_stated_when_there_is_some(make_run: MakeRun) -> None:
    folder = make_run(clients=5, rounds=2)
    summary = read_run(folder).summary
    assert summary is not None
    folder.write_json(folder.summary, summary | {"privacy": {"epsilon": 7.943, "delta": 1e-5, "unit": "client"}})
    text = written(folder).text
    assert "ε = 7.94" in text
    assert "ε = ∞" not in text


def test_damage_is_named(make_run: MakeRun) -> None:
    folder = make_run(clients=5, rounds=2)
    folder.write_text(folder.summary, "{")
    with pytest.raises(DataError, match=r"summary\.json: not JSON"):
        write_report(folder.path)
    folder.write_text(folder.recipe, "- 1")
    with pytest.raises(DataError, match=r"recipe\.yaml: not a run's recipe"):
        write_report(folder.path)
    folder.write_text(folder.recipe, "a: [")
    with pytest.raises(DataError, match=r"recipe\.yaml:1: cannot be read as YAML"):
        write_report(folder.path)


def test_a_folder_that_is_no_run_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(RecipeError, match="not a run's folder"):
        write_report(tmp_path_factory.mktemp("empty"))


def test_a_recipe_that_cannot_be_read_is_a_storage_error(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(clients=5, rounds=1)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(StorageError, match=r"cannot read .*recipe\.yaml: Permission denied"):
        write_report(folder.path)


def test_a_recipe_that_is_no_text_is_named(make_run: MakeRun) -> None:
    folder = make_run(clients=5, rounds=1)
    folder.recipe.write_bytes(b"name: \xff")
    with pytest.raises(DataError, match=r"recipe\.yaml: not UTF-8"):
        write_report(folder.path)


def test_what_clients_were_evaluated_on_is_said(make_run: MakeRun) -> None:
    folder = make_run(clients=5, rounds=2)
    assert "on examples that 5 clients held out from training. A good" in written(folder).text
    rows = [row | {"holdout": 0} for row in read_run(folder).clients]
    folder.write_json(folder.clients, rows)
    text = written(folder).text
    assert "on the test examples of 5 clients, client by client. A good" in text
    assert "held out from training" not in text


@pytest.mark.parametrize(
    ("most", "reason"), [(100, "set federation.holdout to hold out part"), (0, "evaluate.clients is 0")]
)
def test_why_clients_were_not_evaluated_is_said(make_run: MakeRun, most: int, reason: str) -> None:
    folder = make_run(clients=5, rounds=1, per_client=False)
    recipe = yaml.safe_load(folder.recipe.read_text()) | {"evaluate": {"clients": most}}
    folder.write_text(folder.recipe, yaml.safe_dump(recipe))
    assert f"Clients were not evaluated one by one: {reason}" in written(folder).text


def test_a_federation_of_sites_is_continued_by_its_server(make_run: MakeRun) -> None:
    folder = make_run(status="interrupted")
    simulated = written(folder).text
    assert "fedfm resume runs/synthetic" in simulated
    recipe = yaml.safe_load(folder.recipe.read_text())
    recipe["data"]["train"] = "sites"
    folder.recipe.write_text(yaml.safe_dump(recipe))
    text = written(folder).text
    assert "fedfm server runs/synthetic --tls … --allow …" in text
    assert "fedfm server runs/synthetic/recipe.yaml name=synthetic-again" in text
    assert "fedfm resume" not in text
