"""Questions to the clients of a run: merged as one index would, and nothing leaves a site that its policy keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedfm
from fedfm.clients.retrieval.index import embed, index_of
from fedfm.errors import RecipeError, TooFewClientsError
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.runtimes.envelopes import Envelope, Replies
from fedfm.runtimes.line import Part
from fedfm.server.experiment.build import build_experiment
from fedfm.server.experiment.deployment import RealSites
from fedfm.server.runs import asking
from fedfm.server.runs.answers import Listing
from fedfm.server.runs.asking import ask
from fedfm.server.runs.finished import Run
from fedfm.server.runs.serving import for_sites
from fedfm.sites.egress import Egress
from fedfm.sites.policy import Policy
from fedfm.sites.site import Site
from fedfm.sites.site_config import SiteData
from tests.server.experiment.test_deployment import NAMES, Near
from tests.small import small_recipe

CANARY = "zanzibar"
QUESTIONS = ("what does thing 7 do", f"where is {CANARY}", "which one is it")
SITES_ASKED = {"works": ["train", "retrieve"]}


def write_pairs(folder: Path) -> None:
    """Pairs of five sites; every passage has a word that no question of the data has."""
    rows = [
        {
            "q": f"what does thing {i} do",
            "p": f"thing {i} of {CANARY}{i} does {'abc'[i % 3] * 9}",
            "site": "abcde"[i % 5],
        }
        for i in range(40)
    ]
    for name, some in (("train", rows[:30]), ("test", rows[30:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))


def recipe_of(folder: Path, **changes: Any) -> dict[str, Any]:
    values = small_recipe(folder, task={"kind": "retrieval"}, **changes)
    write_pairs(folder)
    values["data"] |= {"text": ["q", "p"], "client": "site", "max_length": 48}
    values["federation"] = {"per_round": 5, "rounds": 1}
    values["ask"] = {"chunk_tokens": 48, "overlap_tokens": 8, "per_client": 10, **changes.get("ask", {})}
    return values


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fedfm.run(recipe_of(tmp_path_factory.mktemp("retrieval")))


def test_a_run_measures_what_it_finds(run: Run) -> None:
    assert list(run.summary["final"]) == ["loss", "recall_at_10", "recall_at_1", "mrr"]
    assert run.summary["reloaded"]["agrees"]
    assert run.recipe.runtime.stack == "off", "clients do not share passes, whose batches would be joined"


def test_the_merged_answers_are_those_of_one_index(run: Run) -> None:
    answered = ask(run.path, QUESTIONS, ["ask.answer=snippets"], most=10)
    experiment = build_experiment(load_recipe(run.path / "recipe.yaml"))
    experiment.plug_in(run.state.params)
    rows = [json.loads(line) for line in Path(run.recipe.data.train).read_text().splitlines()]
    by_client = sorted(rows, key=lambda row: row["site"])
    central = index_of([row["p"] for row in by_client], experiment.evaluator, run.recipe.ask, {"test": "central"})
    scores, chunks = central.search(embed(experiment.evaluator, QUESTIONS, 48), 10)
    for place, answer in enumerate(answered):
        assert [passage.text for passage in answer.passages] == [central.texts[chunk] for chunk in chunks[place]]
        np.testing.assert_allclose([passage.score for passage in answer.passages], scores[place], atol=1e-6)
        assert answer.snippets == 30, "each of five clients has six passages"
        assert (answer.exchanges, answer.complete) == (1, True)
    once, further = (ask(run.path, QUESTIONS, ["ask.per_client=2", f"ask.further={more}"], most=10) for more in (0, 4))
    assert not all(answer.complete for answer in once)
    for answer, exact, short in zip(further, answered, once, strict=True):
        found = [(passage.client, passage.chunk, passage.score) for passage in answer.passages]
        assert found == [(passage.client, passage.chunk, passage.score) for passage in exact.passages]
        assert answer.complete
        assert answer.exchanges > short.exchanges == 1
    lines = list(jsonl.records(run.folder.answers))
    assert [line["question"] for line in lines[-3:]] == list(QUESTIONS)
    ledger = [line for line in jsonl.records(run.folder.answers_wire) if line["name"] == lines[-1]["name"]]
    up = [line["bytes"] for line in ledger if line["direction"] == "up"]
    assert sum(answer.bytes["up"] for answer in further) == pytest.approx(sum(up))
    assert len(set(up)) == len({line["bytes"] for line in ledger if line["direction"] == "down"}) == 1
    assert max(line["round"] for line in ledger) == max(answer.exchanges for answer in further)


def test_a_question_as_text_gets_the_same_answer(run: Run) -> None:
    embedded, text = (
        ask(run.path, QUESTIONS, [f"ask.question={how}", "ask.answer=scores"], most=5) for how in ("embedding", "text")
    )
    for one, other in zip(embedded, text, strict=True):
        found = [[(p.client, p.chunk) for p in answer.passages] for answer in (one, other)]
        assert found[0] == found[1]
    assert {passage.text for answer in text for passage in answer.passages} == {None}


def test_choices_are_scored_and_no_text_leaves(run: Run) -> None:
    (answer,) = ask(run.path, ["what is it"], choices=["thing 3", "a mountain"])
    assert sorted(choice.text for choice in answer.choices) == ["a mountain", "thing 3"]
    assert sum(choice.votes for choice in answer.choices) == answer.clients == 5
    assert answer.choices[0].score >= answer.choices[1].score
    assert (answer.snippets, answer.exchanges, answer.complete) == (0, 1, True)


@pytest.mark.parametrize(
    ("questions", "options", "reason"),
    [
        ([], {}, "there is no question"),
        (["what", " "], {}, "question 2 is blank"),
        (["what"], {"most": 201}, "ask.per_client: 5 clients return 40 chunks each, 200 in all, and 201"),
        (["what"], {"most": 0}, "0 passages cannot be listed"),
        (["what"], {"choices": ["one"]}, "two or more different choices"),
        (["what"], {"overrides": ["tune.r=2"]}, "tune.r: tune.r=2 would change the run"),
        (["what"], {"overrides": ["ask.chunk_tokens=1000"]}, "ask.chunk_tokens: 1000 is more than the 256 tokens"),
    ],
)
def test_what_cannot_be_asked(questions: list[str], options: dict[str, Any], reason: str, run: Run) -> None:
    with pytest.raises(RecipeError, match=reason):
        ask(run.path, questions, **options)


def test_a_run_of_another_kind_cannot_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "run" / "recipe.yaml"
    path.parent.mkdir()
    path.write_text(json.dumps(small_recipe(tmp_path)))
    with pytest.raises(RecipeError, match="is a run of `text-classification`, which cannot be asked"):
        ask(path.parent, ["what"])
    with pytest.raises(RecipeError, match="cannot be asked questions; it is for retrieval"):
        load_recipe(small_recipe(tmp_path), ["ask.per_client=4"])


def test_a_run_does_not_ask(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"ask.questions: .*fedfm ask"):
        fedfm.run(recipe_of(tmp_path), ["ask.questions=3"])


class Overheard(Near):
    """A line that keeps what leaves the sites."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        super().__init__(sites)
        self.answered: list[Envelope] = []

    def _answer(self, node: str, envelope: Envelope) -> Iterator[Part]:
        for part in super()._answer(node, envelope):
            if part.envelope is not None:
                self.answered.append(part.envelope)
            yield part


class Sites:
    """Five sites in this process, and a finished run of theirs."""

    line: Overheard

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, list[str]()
        values = recipe_of(folder)
        values["data"]["client"] = None
        rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        for name in NAMES:
            own = [row for row in rows if row["site"] == name]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
        self.run = fedfm.run(for_sites(load_recipe(values), len(NAMES)), deployment=self.deployed()[0])

    def deployed(self, **policy: Any) -> tuple[RealSites, Overheard]:
        data = {name: SiteData(train=str(self.folder / f"{name}.jsonl")) for name in NAMES}
        guards = {name: Egress(Policy(**policy), self.folder / f"site-{name}", self.said.append) for name in NAMES}
        line = Overheard({name: Site(data[name], guards[name], self.folder / f"site-{name}") for name in NAMES})
        return RealSites(NAMES, lambda experiment: line, self.said.append), line

    def ask(
        self, overrides: Sequence[str] = (), questions: Sequence[str] = QUESTIONS, most: int = 5, **policy: Any
    ) -> list[Any]:
        deployment, self.line = self.deployed(**SITES_ASKED, **policy)
        return ask(self.run.path, questions, overrides, most=most, deployment=deployment)

    def ledger(self, name: str = "a") -> list[dict[str, Any]]:
        lines = jsonl.records(self.folder / f"site-{name}" / "wire.jsonl")
        return [line for line in lines if line["work"] == "retrieve"]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    return Sites(tmp_path_factory.mktemp("sites"))


def left(line: Overheard) -> bytes:
    """All bytes that left the sites."""
    return b"".join(blob for envelope in line.answered for blob in (envelope.text.encode(), *envelope.blobs))


def test_with_answers_only_no_text_of_a_site_leaves(sites: Sites) -> None:
    answered = sites.ask(["ask.answer=best-score"])
    assert [len(answer.passages) for answer in answered] == [5, 5, 5]
    assert CANARY.encode() not in left(sites.line)
    assert sites.ledger()[-1]["snippets"] == 0
    assert sites.ledger()[-1]["questions"] == 3


def test_text_leaves_where_the_policy_says_so_and_is_in_the_ledger(sites: Sites) -> None:
    sites.ask(["ask.answer=snippets", "ask.per_client=2", "ask.further=0"], max_scores=2, max_snippets=2)
    assert CANARY.encode() in left(sites.line), "the test would see it"
    line = sites.ledger()[-1]
    assert (line["questions"], line["snippets"], line["direction"]) == (3, 6, "up")
    assert line["bytes"] > 6 * 400


@pytest.mark.parametrize(
    ("overrides", "policy", "key"),
    [
        (["ask.answer=scores", "ask.per_client=2"], {}, "max_scores"),
        (["ask.answer=snippets", "ask.per_client=1"], {}, "max_snippets"),
        (
            ["ask.answer=snippets", "ask.per_client=1"],
            {"max_snippets": 1, "max_snippets_a_day": 2},
            "max_snippets_a_day",
        ),
        (["ask.answer=best-score"], {"max_questions_a_day": 2}, "max_questions_a_day"),
        (["ask.answer=best-score"], {"readable_questions": True}, "readable_questions"),
    ],
)
def test_more_than_a_policy_allows_is_refused(
    overrides: list[str], policy: dict[str, Any], key: str, sites: Sites
) -> None:
    before = len(sites.ledger())
    with pytest.raises(TooFewClientsError, match=key):
        sites.ask(overrides, **policy)
    assert len(sites.ledger()) == before
    assert CANARY.encode() not in left(sites.line)


def test_a_day_is_counted_over_restarts_of_a_site(sites: Sites) -> None:
    asked = sum(line["questions"] for line in sites.ledger())
    limits = {"max_questions_a_day": asked + 3}
    sites.ask(["ask.answer=best-score"], **limits)
    with pytest.raises(TooFewClientsError):
        sites.ask(["ask.answer=best-score"], **limits)
    for name in NAMES:  # another day
        ledger = sites.folder / f"site-{name}" / "wire.jsonl"
        lines = [line | ({"day": "1999-01-01"} if "day" in line else {}) for line in jsonl.records(ledger)]
        ledger.write_bytes(b"".join(jsonl.line(line) for line in lines))
    sites.ask(["ask.answer=best-score"], **limits)


def canaries(line: Overheard, client: str) -> set[bytes]:
    """Passages of a site whose texts left it; every third of them is the site's."""
    own = {f"{CANARY}{number} ".encode() for number in range(30) if NAMES[number % 5] == client}
    return {word for word in own if word in left(line)}


EVERYTHING = ["ask.answer=snippets", "ask.per_client=2", "ask.further=3"]


def test_a_policy_holds_over_all_exchanges_and_the_first_answers_are_kept(sites: Sites) -> None:
    before = len(sites.ledger())
    (answer,) = sites.ask(EVERYTHING, QUESTIONS[:1], most=25, max_scores=5, max_snippets=5)
    assert {len(canaries(sites.line, name)) for name in NAMES} == {4}, "six would be more than five"
    assert len(answer.passages) == answer.snippets == 20
    assert answer.cut_short.keys() == set(NAMES)
    assert all("max_scores" in reason and "max_snippets" in reason for reason in answer.cut_short.values())
    assert (answer.failed, answer.complete, answer.exchanges) == ({}, False, 3)
    lines = sites.ledger()[before:]
    assert [(line["round"], line["questions"], line["snippets"]) for line in lines] == [(1, 1, 2), (2, 1, 2)]


def test_limits_of_a_day_count_every_exchange(sites: Sites) -> None:
    before = sum(line["snippets"] for line in sites.ledger() if line["day"] > "1999-01-01")
    limits = {"max_scores": 9, "max_snippets": 9, "max_snippets_a_day": before + 5}
    (answer,) = sites.ask(EVERYTHING, QUESTIONS[:1], most=25, **limits)
    assert "max_snippets_a_day" in answer.cut_short["a"]
    assert len(canaries(sites.line, "a")) == 4
    assert sum(line["snippets"] for line in sites.ledger() if line["day"] > "1999-01-01") == before + 4


@pytest.mark.parametrize("skip", [-7, 10_000])
def test_a_server_cannot_skip_where_it_likes(skip: int, sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listing, "askable", property(lambda listing: {"a": skip} if not listing.failed else {}))
    (answer,) = sites.ask(EVERYTHING, QUESTIONS[:1], most=10, max_scores=20_000, max_snippets=20_000)
    assert answer.cut_short.keys() == {"a"}
    assert len(answer.passages) == 10
    assert len(canaries(sites.line, "a")) == 2


class Leaving(Overheard):
    """A line whose sites are gone after their first answers."""

    def nodes(self, *, wait: bool = True) -> list[str]:
        return [] if any(isinstance(part.head, Replies) for part in self.answered) else super().nodes(wait=wait)


def test_answers_are_kept_where_no_site_is_there_any_more(sites: Sites) -> None:
    line = Leaving(sites.deployed(**SITES_ASKED, max_scores=9)[1].sites)
    deployment = RealSites(NAMES, lambda experiment: line, sites.said.append)
    (answer,) = ask(sites.run.path, QUESTIONS[:1], ["ask.per_client=2"], most=20, deployment=deployment)
    assert len(answer.passages) == 10
    assert answer.cut_short == dict.fromkeys(NAMES, "no node can train for this run: none is there")
    assert not answer.complete


def test_a_site_records_questions_that_it_can_read(sites: Sites) -> None:
    sites.ask(["ask.answer=best-score", "ask.question=text"], readable_questions=True)
    events = list(jsonl.records(sites.folder / "site-a" / "events.jsonl"))
    assert [event["reason"] for event in events if event["kind"] == "asked"] == list(QUESTIONS)


def test_a_site_that_does_not_name_the_work_is_not_asked(sites: Sites) -> None:
    deployment, _ = sites.deployed()
    with pytest.raises(TooFewClientsError, match="works"):
        ask(sites.run.path, QUESTIONS, ["ask.answer=best-score"], most=5, deployment=deployment)


@pytest.mark.parametrize(
    "embedding", [torch.zeros(2, 16), torch.full((3, 16), torch.nan), torch.zeros(3, 15), torch.zeros(3, 16).int()]
)
def test_a_question_that_is_none_is_a_failed_client(
    embedding: torch.Tensor, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "embed", lambda *arguments: embedding.numpy())
    with pytest.raises(TooFewClientsError, match=r"embeddings|not finite"):
        ask(run.path, QUESTIONS, most=5)


def test_a_client_without_an_answer_is_named(sites: Sites) -> None:
    deployment, line = sites.deployed(**SITES_ASKED)
    strict = line.sites["c"].egress
    strict.policy = strict.policy.model_copy(update={"works": ["train"]})
    answered = ask(sites.run.path, QUESTIONS, ["ask.answer=best-score"], most=4, deployment=deployment)
    assert answered[0].clients == 4
    assert "works" in answered[0].failed["c"]
