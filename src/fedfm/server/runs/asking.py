"""Questions to the clients of a finished run: each searches its own texts with the tuned model, and answers are merged.

A question goes out as an embedding or as text, together with the tuned parameters. Each client returns what the
recipe's ``ask`` names: the score of its best chunk, scores and numbers of its best chunks, or also their texts. All
scores are cosines by one model. So where each client returns k chunks, the best k of them are those of one index over
all clients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fedfm.clients.retrieval.chunks import refuse_unfit_chunks
from fedfm.clients.retrieval.index import ABSENT, embed
from fedfm.clients.retrieval.settings import ANSWERS, CHUNKS, EMBEDDING, QUESTION, SCORES, SNIPPETS
from fedfm.clients.store import ClientStore
from fedfm.clients.work import RETRIEVE
from fedfm.data.packed_texts import pack
from fedfm.errors import RecipeError, TooFewClientsError
from fedfm.private import private
from fedfm.protocols import Ask, State
from fedfm.proxies.base import ModelVersion
from fedfm.recipe import Recipe, load_recipe
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.runtimes.base import Runtime
from fedfm.server.experiment.build import Experiment
from fedfm.server.experiment.deployment import Deployment, Simulation
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.rounds.exchange import Exchange
from fedfm.server.rounds.interrupts import stop_on_signals
from fedfm.server.rounds.messages import Outbox
from fedfm.server.rounds.pending import Pending
from fedfm.server.rounds.round_records import Records, Stopwatch
from fedfm.server.rounds.state import RunState
from fedfm.server.runs.artifacts import delivered_params, refuse_another_model
from fedfm.tasks import TASKS

CHANGEABLE = ("ask.", "runtime.", "local.", "allow_network")
"""Keys, or prefixes of keys, that may be changed for questions."""

_KEPT = ("seed", "output", "model", "task", "data", "tune", "runtime", "ask", "allow_network")
_KEPT_FEDERATION = ("clients", "partition", "holdout", "min_examples")
"""What a recipe that asks questions has of the run's recipe; the rest is about training."""


@dataclass(frozen=True)
class Passage:
    """A chunk of a client's texts.

    Attributes:
        client: client id.
        score: cosine of its embedding and the question's.
        chunk: its number at the client; None where only the best score comes back.
        text: what it says; None where no text comes back.
    """

    client: str
    score: float
    chunk: int | None = None
    text: str | None = None


@dataclass(frozen=True)
class PossibleAnswer:
    """One of the asker's own possible answers.

    Attributes:
        text: of it.
        score: the best that any client gives to the question followed by it.
        votes: clients that give it their highest score.
    """

    text: str
    score: float
    votes: int


@dataclass(frozen=True)
class Answered:
    """The answers of all clients to one question.

    Attributes:
        question: as it was asked.
        passages: the best of all clients, the best first; empty for a question with choices.
        choices: the best first; empty for a question without.
        clients: that answered.
        failed: client → why it did not answer.
        bytes: this question's share of the bytes of all messages, ``down`` and ``up``.
        snippets: pieces of text that left clients.
    """

    question: str
    passages: list[Passage]
    choices: list[PossibleAnswer]
    clients: int
    failed: dict[str, str]
    bytes: dict[str, float]
    snippets: int


def ask(
    run: Path | str,
    questions: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    most: int = 10,
    choices: Sequence[str] = (),
    deployment: Deployment | None = None,
) -> list[Answered]:
    """Puts questions to the clients of a run of `retrieval`, in one exchange; adds them to ``answers.jsonl``.

    Args:
        run: the run's folder.
        questions: at least one.
        overrides: ``dotted.key=value`` settings of ``ask`` and ``runtime``.
        most: passages of all clients together for each question.
        choices: possible answers: clients then say only how well each fits, and no text of theirs leaves them.
        deployment: where the clients are; None: simulated, in the recipe's runtime.

    Raises:
        RecipeError: the run cannot be asked, or a setting does not fit.
        DataError: a file cannot be read.
        TooFewClientsError: no client answered, with the reasons.
    """
    folder = RunFolder.open(run)
    recipe = load_recipe(folder.recipe)
    texts = _texts(questions, choices)
    asked = _asking(recipe, overrides, len(texts), folder, best_score=bool(choices))
    deployment = deployment or Simulation()
    with private(), folder.lock():
        experiment = deployment.build(asked)
        params = _tuned(folder, recipe, experiment)
        _refuse_too_many(most, experiment, choices)
        refuse_unfit_chunks(cast(PreTrainedTokenizerBase, experiment.backbone.processor), asked.ask)
        with stop_on_signals() as stop, closing(deployment.reach(experiment)) as runtime:
            experiment = deployment.informed(experiment)
            runtime.attend(lambda: stop.check("while clients were asked"))
            state = RunState(State(0, params), proxy=ModelVersion())
            exchange = Exchange(
                experiment,
                Outbox(runtime, experiment.client_model, experiment.contract),
                Pending(runtime),
                ClientStore(folder.client_state),
                state,
                Records(folder, 1, Stopwatch({})),
                stop,
                phase="ask",
            )
            found = _exchange(experiment, exchange, runtime, params, texts)
        answered = _merged(questions, choices, found, exchange, most)
        for line in exchange.records.wire:
            folder.append(folder.answers_wire, {"name": asked.name, **line})
        for answer in answered:
            folder.append(folder.answers, {"name": asked.name, **asdict(answer)})
    return answered


def _texts(questions: Sequence[str], choices: Sequence[str]) -> list[str]:
    """What is embedded: each question, or each followed by each choice."""
    if not questions:
        raise RecipeError("there is no question", source="ask")
    if blank := [place for place, text in enumerate(questions, start=1) if not text.strip()]:
        raise RecipeError(f"question {blank[0]} is blank", source="ask")
    if choices and (len(set(choices)) < max(2, len(choices)) or not all(text.strip() for text in choices)):
        raise RecipeError("give two or more different choices, none of them blank", source="ask")
    return [f"{question} {choice}".strip() for question in questions for choice in choices or ("",)]


def _asking(recipe: Recipe, overrides: Sequence[str], questions: int, folder: RunFolder, *, best_score: bool) -> Recipe:
    """The recipe of one exchange of questions: the run's model and data, and nothing about training."""
    if not recipe.task.answers_questions:
        kinds = " or ".join(kind for kind, task in TASKS.items() if task.answers_questions)
        raise RecipeError(
            f"{folder.path} is a run of `{recipe.task.kind}`, which cannot be asked questions; it is for {kinds}",
            where="task.kind",
        )
    if recipe.proxy.is_sent:
        raise RecipeError("clients that hold a proxy cannot search with the tuned model", where="proxy.kind")
    if recipe.tune.share is not None:
        raise RecipeError(
            "each client keeps a part of the tunable for itself, so scores of different clients do not compare",
            where="tune.share",
        )
    if refused := [text for text in overrides if not text.startswith(CHANGEABLE)]:
        raise RecipeError(
            f"{refused[0]} would change the run; only {', '.join(CHANGEABLE)} can be set for questions",
            where=refused[0].partition("=")[0],
        )
    values = recipe.model_dump()
    kept = {key: values[key] for key in _KEPT}
    federation: dict[str, Any] = {key: values["federation"][key] for key in _KEPT_FEDERATION}
    federation |= {"rounds": 1, "per_round": federation["clients"]}
    kept["ask"] |= {"questions": questions}
    before = sum(1 for _ in jsonl.records(folder.answers)) if folder.answers.is_file() else 0
    name = f"{recipe.name[:80]}.ask-{before + 1}"  # a site counts what leaves for each recipe
    last = ["ask.answer=best-score"] if best_score else []
    return load_recipe({"name": name, **kept, "federation": federation}, [*overrides, *last])


def _tuned(folder: RunFolder, recipe: Recipe, experiment: Experiment) -> dict[str, Tensor]:
    """The run's tunable, which is written to the experiment's."""
    saved = load_checkpoint(folder)
    if saved is None:
        raise RecipeError(f"{folder.path} has no saved round; continue the run with `{folder.again}`", source="run")
    refuse_another_model(saved.identity, experiment.backbone)
    if saved.state.proxy is not None and saved.state.proxy.own:
        raise RecipeError(
            f"`{recipe.aggregate.rule}` has changed the frozen weights of the model, which clients do not have",
            where="aggregate.rule",
        )
    params = dict(delivered_params(folder, experiment.contract, recipe, saved.state))
    experiment.plug_in(params)
    return params


def _refuse_too_many(most: int, experiment: Experiment, choices: Sequence[str]) -> None:
    """Refuses to list more passages than all clients return together."""
    each, clients = experiment.recipe.ask.chunks, len(experiment.data.clients)
    if most < 1:
        raise RecipeError(f"{most} passages cannot be listed; ask for one at least", source="ask")
    if not choices and most > each * clients:
        raise RecipeError(
            f"{clients} clients return {each} chunks each, {each * clients} in all, and {most} are to be listed: raise "
            "it, or list fewer",
            where="ask.per_client",
        )


def _exchange(
    experiment: Experiment, exchange: Exchange, runtime: Runtime, params: Mapping[str, Tensor], texts: Sequence[str]
) -> dict[str, Mapping[str, Tensor]]:
    """Client → its answers to all texts."""
    settings, length = experiment.recipe.ask, experiment.recipe.data.max_length
    if settings.question == "text":
        group = pack([list(texts)])
    else:
        group = {EMBEDDING: torch.from_numpy(embed(experiment.evaluator, texts, length))}
    message = Ask(1, dict(params), groups={QUESTION: group}, work=RETRIEVE, expects=settings.returns())
    clients = dict.fromkeys(experiment.data.clients, message)
    found = {update.client: update.groups[ANSWERS] for update in exchange.ask(clients, quorum=False)}
    runtime.say_ended(experiment.recipe.name, "completed" if found else "failed", 1)
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in _failed(exchange).items())
        raise TooFewClientsError(f"no client answered ({reasons})")
    return found


def _failed(exchange: Exchange) -> dict[str, str]:
    return {event["client"]: event["reason"] for event in exchange.records.events if event["client"] is not None}


@dataclass
class _Tally:
    """What clients say of the choices of one question."""

    best: dict[str, float] = field(default_factory=dict)
    votes: Counter[str] = field(default_factory=Counter)

    def add(self, scores: Mapping[str, float]) -> None:
        """Adds one client's scores."""
        for text, score in scores.items():
            self.best[text] = max(score, self.best.get(text, float(ABSENT)))
        self.votes[max(scores, key=lambda text: scores[text])] += 1

    def ranked(self) -> list[PossibleAnswer]:
        """The choices, the one with the best score first."""
        ordered = sorted(self.best, key=lambda text: -self.best[text])
        return [PossibleAnswer(text, self.best[text], self.votes[text]) for text in ordered]


def _merged(
    questions: Sequence[str],
    choices: Sequence[str],
    found: Mapping[str, Mapping[str, Tensor]],
    exchange: Exchange,
    most: int,
) -> list[Answered]:
    """The clients' answers to each question in one list."""
    sent = {"down": exchange.totals.bytes_down / len(questions), "up": exchange.totals.bytes_up / len(questions)}
    answered = []
    for place, question in enumerate(questions):
        passages: list[Passage] = []
        tally = _Tally()
        for client, group in sorted(found.items()):
            if choices:
                row = group[SCORES].flatten()[place * len(choices) : (place + 1) * len(choices)].tolist()
                tally.add(dict(zip(choices, row, strict=True)))
            else:
                passages += _passages(client, group, place)
        texts = sum(passage.text is not None for passage in passages)
        best = sorted(passages, key=lambda passage: -passage.score)[:most]  # stable: of equal scores, by client
        answered.append(Answered(question, best, tally.ranked(), len(found), _failed(exchange), sent, texts))
    return answered


def _passages(client: str, group: Mapping[str, Tensor], place: int) -> list[Passage]:
    """What a client returns for one question."""
    scores = group[SCORES][place].tolist()
    chunks = group[CHUNKS][place].tolist() if CHUNKS in group else [None] * len(scores)
    texts = [_text(row) for row in group[SNIPPETS][place]] if SNIPPETS in group else [None] * len(scores)
    rows = zip(scores, chunks, texts, strict=True)
    return [Passage(client, score, chunk, text) for score, chunk, text in rows if chunk != ABSENT]


def _text(row: Tensor) -> str:
    """A text that zeros follow; a letter that was cut off at its end is left out."""
    return row.numpy().tobytes().rstrip(b"\0").decode(errors="ignore")
