"""Questions to the clients of a finished run: each searches its own texts with the tuned model, and answers are merged.

A question goes out as an embedding or as text, together with the tuned parameters. Each client returns what the
recipe's ``ask`` names: the score of its best chunk, scores and numbers of its best chunks, or also their texts. All
scores are cosines by one model, so they compare. Clients whose chunks are among the best of all are asked again for
their next ones, until the list is that of one index over all clients, or ``ask.further`` is reached; see `answers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fedfm.clients.retrieval.chunks import refuse_unfit_chunks
from fedfm.clients.retrieval.index import embed
from fedfm.clients.retrieval.settings import ABSENT, ANSWERS, CHUNKS, EMBEDDING, QUESTION, SKIP
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
from fedfm.server.experiment.build import Experiment
from fedfm.server.experiment.deployment import Deployment, Simulation
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.rounds.exchange import Exchange
from fedfm.server.rounds.interrupts import stop_on_signals
from fedfm.server.rounds.messages import Outbox
from fedfm.server.rounds.pending import Pending
from fedfm.server.rounds.round_records import Records, Stopwatch
from fedfm.server.rounds.state import RunState
from fedfm.server.runs.answers import Answered, Listing, passages_of, tally_of
from fedfm.server.runs.artifacts import delivered_params, refuse_another_model
from fedfm.tasks import TASKS

CHANGEABLE = ("ask.", "runtime.", "local.", "allow_network")
"""Keys, or prefixes of keys, that may be changed for questions."""

_KEPT = ("seed", "output", "model", "task", "data", "tune", "runtime", "ask", "allow_network")
_KEPT_FEDERATION = ("clients", "partition", "holdout", "min_examples")
"""What a recipe that asks questions has of the run's recipe; the rest is about training."""

_Found = Mapping[str, Mapping[str, Tensor]]
"""Client → its answers to all questions."""


def ask(
    run: Path | str,
    questions: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    most: int = 10,
    choices: Sequence[str] = (),
    deployment: Deployment | None = None,
) -> list[Answered]:
    """Puts questions to the clients of a run of `retrieval`; adds the answers to ``answers.jsonl``.

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
            asking = _Questions(experiment, exchange, params, _sent(experiment, texts))
            try:
                answered = _merged(questions, choices, asking, most)
            except TooFewClientsError:
                runtime.say_ended(asked.name, "failed", 1)
                raise
            runtime.say_ended(asked.name, "completed", max(answer.exchanges for answer in answered))
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
    """The recipe of questions: the run's model and data, an exchange a round, and nothing about training."""
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
    asked = load_recipe({"name": name, **kept, "federation": federation}, [*overrides, *last])
    return load_recipe(asked.model_dump(), [f"federation.rounds={asked.ask.exchanges}"])


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


def _sent(experiment: Experiment, texts: Sequence[str]) -> dict[str, Tensor]:
    """Questions as they are sent."""
    if experiment.recipe.ask.question == "text":
        return pack([list(texts)])
    return {EMBEDDING: torch.from_numpy(embed(experiment.evaluator, texts, experiment.recipe.data.max_length))}


def _refuse_too_many(most: int, experiment: Experiment, choices: Sequence[str]) -> None:
    """Refuses to list more passages than all clients return together."""
    settings, clients = experiment.recipe.ask, len(experiment.data.clients)
    each = settings.chunks * settings.exchanges
    if most < 1:
        raise RecipeError(f"{most} passages cannot be listed; ask for one at least", source="ask")
    if not choices and most > each * clients:
        raise RecipeError(
            f"{clients} clients return {each} chunks each, {each * clients} in all, and {most} are to be listed: raise "
            "it or ask.further, or list fewer",
            where="ask.per_client",
        )


@dataclass(frozen=True)
class _Questions:
    """Questions to the clients of an experiment, the same in each exchange.

    Attributes:
        experiment: whose clients are asked.
        exchange: sends messages and takes answers.
        params: the tuned parameters.
        group: the questions, as they are sent.
    """

    experiment: Experiment
    exchange: Exchange
    params: Mapping[str, Tensor]
    group: Mapping[str, Tensor]

    def all_clients(self) -> tuple[_Found, dict[str, str]]:
        """What the clients answer in the first exchange, and why others do not.

        Raises:
            TooFewClientsError: no client answers, with the reasons.
        """
        settings, clients = self.experiment.recipe.ask, self.experiment.data.clients
        found, failed = self._ask(1, dict.fromkeys(clients, (0,) * (settings.questions or 0)))
        if not found:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
            raise TooFewClientsError(f"no client answered ({reasons})")
        return found, failed

    def listings(self, found: _Found, most: int) -> list[Listing]:
        """The passages for each question; clients are asked again for those that may be among the best.

        Args:
            found: what the clients answered in the first exchange.
            most: passages to list for each question.
        """
        settings = self.experiment.recipe.ask
        listings = [Listing(most) for _ in range(settings.questions or 0)]
        asked = [dict.fromkeys(found, 0)] * len(listings)
        failed: dict[str, str] = {}
        for number in range(1, settings.exchanges + 1):
            if number > 1:
                asked = [listing.askable for listing in listings]
                clients = sorted({client for skips in asked for client in skips})
                if not clients:
                    break
                skips = {client: tuple(skip.get(client, ABSENT) for skip in asked) for client in clients}
                found, failed = self._ask(number, skips)
            for place, listing in enumerate(listings):
                listing.exchanges += bool(asked[place])
                for client in asked[place]:
                    if client in found:
                        listing.add(client, passages_of(client, found[client], place), settings.chunks)
                    else:
                        listing.failed[client] = failed[client]
        return listings

    def _ask(self, number: int, skips: Mapping[str, tuple[int, ...]]) -> tuple[_Found, dict[str, str]]:
        """One exchange: client → its answers, and client → why it did not answer.

        Args:
            number: of the exchange, from 1.
            skips: client → chunks of it that each question skips; `ABSENT`: the question is not asked.
        """
        events, expects = self.exchange.records.events, self.experiment.recipe.ask.returns()
        messages = {
            skip: Ask(
                number,
                dict(self.params),
                groups={QUESTION: self.group, SKIP: {CHUNKS: torch.tensor(skip)}},
                work=RETRIEVE,
                expects=expects,
            )
            for skip in set(skips.values())
        }
        before, found, lost = len(events), dict[str, Mapping[str, Tensor]](), "it gave no answer"
        try:
            for update in self.exchange.ask({client: messages[skip] for client, skip in skips.items()}, quorum=False):
                found[update.client] = update.groups[ANSWERS]
        except TooFewClientsError as error:  # no client is there any more; what others returned before is not lost
            if number == 1:
                raise
            lost = str(error)
        reasons = {event["client"]: event["reason"] for event in events[before:]}
        return found, {client: reasons.get(client, lost) for client in skips if client not in found}


def _merged(questions: Sequence[str], choices: Sequence[str], asking: _Questions, most: int) -> list[Answered]:
    """The clients' answers to each question in one list."""
    found, failed = asking.all_clients()
    listings = [] if choices else asking.listings(found, most)
    totals = asking.exchange.totals
    sent = {"down": totals.bytes_down / len(questions), "up": totals.bytes_up / len(questions)}
    if choices:
        tallies = [tally_of(choices, found, place) for place in range(len(questions))]
        return [
            Answered(question, [], tally.ranked, len(found), failed, {}, not failed, 1, sent, 0)
            for question, tally in zip(questions, tallies, strict=True)
        ]
    return [
        Answered(
            question=question,
            passages=listing.best,
            choices=[],
            clients=len(found),
            failed=failed,
            cut_short=listing.failed,
            complete=not failed and not listing.unsettled,
            exchanges=listing.exchanges,
            bytes=sent,
            snippets=listing.snippets,
        )
        for question, listing in zip(questions, listings, strict=True)
    ]
