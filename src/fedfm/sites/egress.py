"""A site's egress: what may leave the site, what will leave it, and what did."""

from __future__ import annotations

import hashlib
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fedfm.clients.retrieval.settings import ANSWERS, counted
from fedfm.clients.settings import LocalSettings
from fedfm.clients.work import WORKS, measures
from fedfm.data.settings import shown
from fedfm.errors import FedfmError
from fedfm.printable import quoted
from fedfm.recipe import Recipe
from fedfm.records import jsonl
from fedfm.records.ledger import LAYER, message_record
from fedfm.records.units import size
from fedfm.runtimes.envelopes import Ended
from fedfm.sites.causes import Cause
from fedfm.sites.disclosure import PolicyError, PublicReason, UnannouncedError, public_reason
from fedfm.sites.journal import Journal, append, end_with_a_line
from fedfm.sites.label_counts import FILE
from fedfm.sites.policy import TRAIN, Objection, Policy
from fedfm.spec import empty, spec_of
from fedfm.updates import Failure, Update, decode_update
from fedfm.updates.path import GroupSpecs
from fedfm.wire import TUNABLE, stored_bytes

REPEATS = 2
"""Different updates that may leave for one exchange of a round: a server that was killed asks again."""

FACTS = "facts"
"""What is not a tensor in an update (examples, steps, loss); it is counted as a group."""


_COUNTS = "examples, steps, processed samples and predictions, mean training loss"
_FIGURES = "held-out examples and predictions, mean loss and metrics over them"
"""Facts in the result of a kind of work, and of one that measures."""


class _Slot(NamedTuple):
    """What an update is counted under."""

    job: str
    round: int
    work: str
    group: str


class Egress:
    """Holds runs to a site's policy, announces what will leave before anything does, and records what left.

    Attributes:
        policy: what a server may ask of the site.
        announced: kind of work → specs of the groups that may leave as its result.
        announced_facts: kind of work → names of the figures that may leave beside counts and loss.
        ledger: ``wire.jsonl`` of the site. Its lines are those of a run's ledger, each with the name of the ``run``,
            the digest of its ``job``, the kind of ``work``, the ``groups``, and the sha256 of the whole ``update``;
            of answers to questions also the ``day``, and the numbers of ``questions`` and ``snippets``.
        journal: what the site refused, what failed and how runs ended, with the full reason.
    """

    def __init__(self, policy: Policy, folder: Path, say: Callable[[str], None]) -> None:
        """An egress that has not announced anything.

        Args:
            policy: what a server may ask of the site.
            folder: of the site's own records.
            say: gets lines for people: what will leave, what left, what was refused.
        """
        self.policy = policy
        self.ledger, self.journal = folder / "wire.jsonl", Journal(folder, say)
        self._say = say
        self.announced: dict[str, GroupSpecs] = {}
        self.announced_facts: dict[str, frozenset[str]] = {}
        self._updates = Counter[str]()
        self._told = Counter[tuple[str, str]]()
        self._left: defaultdict[_Slot, set[str]] = defaultdict(set)
        end_with_a_line(self.ledger)
        for number, line in enumerate(jsonl.records(self.ledger)):  # lines of earlier versions have no `work`
            slots = _slots(line["job"], line["round"], line.get("work", TRAIN), line.get("groups", []))
            self._count(slots, line.get("update", str(number)))
            self._add_told(line)

    def admit(self, recipe: Recipe) -> None:
        """Accepts a run that the policy allows.

        Raises:
            PolicyError: it does not; the error lists every objection.
        """
        _refuse(self.policy.objections(recipe))

    def admit_model(self, digest: str | None) -> None:
        """Accepts a model that the policy allows.

        Args:
            digest: of its weights; None: a proxy, whose origin cannot be verified.

        Raises:
            PolicyError: the policy does not allow it.
        """
        _refuse(self.policy.objections_to_model(digest))

    def admit_download(self, size_bytes: int) -> None:
        """Accepts the files of a proxy up to the size that the policy allows.

        Raises:
            PolicyError: they are larger.
        """
        _refuse(self.policy.over("max_download_bytes", size_bytes))

    def admit_training(self, local: LocalSettings, examples: int) -> None:
        """Accepts local training up to the number of steps and the batch size that the policy allows.

        Raises:
            PolicyError: it is more.
        """
        _refuse(self.policy.objections_to_training(local, examples))

    def admit_work(self, work: str) -> None:
        """Accepts a kind of work that the policy names.

        Raises:
            PolicyError: the policy does not name it.
        """
        _refuse(self.policy.objections_to_work([work]))

    def admit_answers(self, recipe: Recipe, skip: int) -> None:
        """Accepts questions of one exchange, each with at most ``skip`` chunks that left in exchanges before.

        Raises:
            PolicyError: with the chunks of this exchange, it is more than the policy allows for a question.
        """
        if (told := recipe.ask.disclosure(max(skip, 0))) is not None:
            _refuse(self.policy.objections_to_answers(told))

    def announce(
        self,
        recipe: Recipe,
        specs: Mapping[str, GroupSpecs],
        facts: Mapping[str, frozenset[str]],
        *,
        client: str,
        examples: int,
    ) -> None:
        """Says what will leave the site in every round, before the first. It replaces an earlier announcement.

        Args:
            recipe: of the run.
            specs: kind of work → specs of the groups that leave as its result.
            facts: kind of work → names of the figures that leave beside counts and loss.
            client: id of the site's client.
            examples: training examples that it holds.

        Raises:
            PolicyError: it is more than the policy allows.
        """
        _refuse(self.policy.objections_to_work(specs))
        sizes = {work: _stored_bytes(groups) for work, groups in specs.items()}
        _refuse([objection for total in sizes.values() for objection in self.policy.over("max_bytes", total)])
        self.announced, self.announced_facts = dict(specs), dict(facts)
        lines = [
            f"run {recipe.name}, as client {client}: {examples:,} examples of {shown(recipe.data.train)} stay here. "
            f"The run reads {_columns(recipe)}. In each of at most {recipe.federation.rounds} rounds, these leave:"
        ]
        for work, groups in specs.items():
            lines += [f"  for `{work}`, about {size(sizes[work])}:", *_described(groups)]
            lines.append(f"    number of {_FIGURES if measures(work) else _COUNTS}")
        lines.append(f"  privacy: {recipe.privacy.kind}; what left is recorded in {self.ledger}")
        figures = [f"  figures of `{work}`: {', '.join(sorted(names))}" for work, names in facts.items() if names]
        for line in [*lines, *figures]:
            self._say(line)

    def refuse(self, error: BaseException, run: str | None) -> PublicReason:
        """Records why the site does not do what a server asks; returns the part of the reason that the server may get.

        Args:
            error: why.
            run: name of the run that it was asked for, where that is known.
        """
        foreseen = isinstance(error, FedfmError)
        details = "" if foreseen else "".join(traceback.format_exception(error))
        self.journal.note("refused", run, str(error) if foreseen else f"{type(error).__name__}: {error}", details)
        return public_reason(error)

    def rounds_left(self, job: str) -> frozenset[int]:
        """Rounds of a job in which updates have left that a client trained for."""
        return frozenset(s.round for s in self._left if s.job == job and s.work in WORKS and WORKS[s.work].trains)

    def note_labels(self, run: str, epsilon: float, *, leave: bool) -> None:
        """Says and records that counts of classes leave, under randomised response; or that they stay, and why."""
        what = f"counts of classes, under randomised response with ε = {epsilon:g} for each example"
        stay = f"stay: counts of other data or classes left before; remove {FILE} to let these leave, which adds its ε"
        self.journal.note("labels", run, f"{what}, {'leave' if leave else stay}")

    def note_end(self, ended: Ended) -> None:
        """Says and records how a run ended."""
        left = f"{self._updates[ended.job]} updates have left this site for it, see {self.ledger}"
        self.journal.note("ended", ended.run, f"{ended.status} after {ended.rounds} rounds; {left}")

    def pass_answer(self, answer: bytes | Failure, recipe: Recipe, job: str) -> bytes | Failure:
        """What of an answer leaves: an update that was announced, or a failure with a reason that quotes nothing.

        Raises:
            PolicyError: the policy does not allow it; nothing leaves.
            UnannouncedError: it is more than was announced; nothing leaves.
            StorageError: it cannot be recorded; nothing leaves.
        """
        if isinstance(answer, bytes):
            self.pass_update(answer, recipe, job)
            return answer
        self.journal.note("failed", recipe.name, answer.reason, answer.details)
        return Failure(answer.client, str(PublicReason(Cause.TRAINING)), stale=answer.stale)

    def pass_update(self, update: bytes, recipe: Recipe, job: str) -> None:
        """Checks and records an update that is about to leave; raises as `pass_answer`."""
        found, digest = decode_update(update), hashlib.sha256(update).hexdigest()
        _refuse(self.policy.over("max_bytes", len(update)))
        self.check(found, recipe, job, digest)
        line = message_record(found.round, "up", [found.facts.client], len(update), found.tensors, work=found.work)
        own = {"run": recipe.name, "job": job, "groups": list(found.groups), "update": digest}
        told = self._told_by(recipe, found)
        append(self.ledger, own | told | line)
        self._add_told(told)
        self._count(_slots(job, found.round, found.work, found.groups), digest)
        when = f"round {found.round} of {recipe.federation.rounds}"
        words = _described_answers(told, len(update)) if told else _described_update(found, len(update))
        self._say(f"run {recipe.name}, {when}: {words}")

    def _told_by(self, recipe: Recipe, found: Update) -> jsonl.Record:
        """What answers to questions tell, for the ledger: the day, and the numbers of questions and pieces of text.

        A question for which no chunk leaves is not counted.

        Raises:
            PolicyError: with what left on the same day, it is more than the policy allows.
        """
        most = recipe.ask.disclosure()
        if most is None:
            return {}
        questions, chunks = counted(found.groups.get(ANSWERS, {}))
        told = replace(most, questions=questions, texts=chunks if most.texts else 0)
        day = datetime.now(UTC).date().isoformat()
        before = {what: self._told[day, what] for what in ("questions", "snippets")}
        _refuse(self.policy.objections_to_answers(told, **before))
        return {"day": day, "questions": told.questions, "snippets": told.texts}

    def _add_told(self, line: Mapping[str, Any]) -> None:
        for what in ("questions", "snippets"):
            self._told[line.get("day", ""), what] += line.get(what, 0)

    def note_questions(self, run: str, texts: Sequence[str]) -> None:
        """Says and records questions that came as text."""
        for text in texts:
            self.journal.note("asked", run, text)

    def check(self, found: Update, recipe: Recipe, job: str, digest: str) -> None:
        """Checks that an update is what the policy allows and the site announced, and that it is not one too many.

        Bytes that left before may leave again: a server that continues a run from a checkpoint asks for the same again.

        Args:
            found: the update.
            recipe: of the run.
            job: digest of the run's job.
            digest: sha256 (hex) of the update's bytes.

        Raises:
            PolicyError: the policy does not allow this kind of work.
            UnannouncedError: something else is wrong with it; the error lists everything.
        """
        self.admit_work(found.work)
        rounds = recipe.federation.rounds
        first = 0 if measures(found.work) else 1  # clients are also evaluated before round 1
        problems = [] if first <= found.round <= rounds else [f"round {found.round} of {rounds}"]
        problems += _unannounced(found, self.announced.get(found.work))
        if unknown := sorted(found.facts.extra.keys() - self.announced_facts.get(found.work, frozenset())):
            problems.append(f"{len(unknown)} figures that were not announced, first {quoted(unknown[0])}")
        most = REPEATS * recipe.protocol.exchanges
        for slot in _slots(job, found.round, found.work, found.groups):
            if len(self._left[slot] - {digest}) >= most:
                problems.append(f"{most} different updates left for group `{slot.group}` in round {found.round}")
        if problems:
            raise UnannouncedError(f"more than was announced ({'; '.join(problems)})")

    def _count(self, slots: Iterable[_Slot], digest: str) -> None:
        """Counts an update that leaves."""
        for slot in slots:
            self._left[slot].add(digest)
            self._updates[slot.job] += slot.group == FACTS


def _slots(job: str, round: int, work: str, groups: Iterable[str]) -> list[_Slot]:  # noqa: A002 - the field's word
    """What an update with these groups is counted under."""
    return [_Slot(job, round, work, group) for group in (*groups, FACTS)]


def _unannounced(found: Update, announced: GroupSpecs | None) -> list[str]:
    """What of an update was not announced: a kind of work, or tensors with their shapes and dtypes."""
    if announced is None:
        return [f"work {quoted(found.work)}, which was not announced"]
    problems = []
    for group, tensors in found.groups.items():
        spec, known = spec_of(tensors), announced.get(group, {})
        if unknown := sorted(name for name, tensor in spec.items() if known.get(name) != tensor):
            shape, dtype = spec[unknown[0]].shape, spec[unknown[0]].dtype
            problems.append(
                f"{len(unknown)} tensors of group `{group}` that were not announced, first `{unknown[0]}` "
                f"{list(shape)} {_plain(dtype)}"
            )
    return problems


def _described(groups: GroupSpecs) -> list[str]:
    """Lines that name the tensors of groups; those of different layers share a line."""
    counts = Counter(
        (group, LAYER.sub("*", name), tensor.shape, tensor.dtype)
        for group, tensors in groups.items()
        for name, tensor in tensors.items()
    )
    return [
        f"    {count} × {name} {list(shape)} {_plain(dtype)}" + ("" if group == TUNABLE else f" (group {group})")
        for (group, name, shape, dtype), count in counts.items()
    ]


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _stored_bytes(groups: GroupSpecs) -> int:
    """Bytes that tensors of these specs take in a message, about."""
    return sum(stored_bytes(empty(tensors)) for tensors in groups.values())


def _described_update(found: Update, size_bytes: int) -> str:
    """What leaves, and what it is the result of."""
    loss = "" if found.facts.loss is None else f"loss {found.facts.loss:.3f}"
    if measures(found.work):
        return f"figures of {found.facts.examples} held-out examples ({size(size_bytes)}) leave{loss and f', {loss}'}"
    mean = loss and f" with mean training {loss}"
    return f"an update of {size(size_bytes)} leaves, after {found.facts.steps} steps{mean}"


def _described_answers(told: jsonl.Record, size_bytes: int) -> str:
    """What leaves as the answer to questions."""
    texts = f"with {told['snippets']} pieces of text"
    return f"answers to {told['questions']} questions ({size(size_bytes)}) leave, {texts}"


def _columns(recipe: Recipe) -> str:
    """The columns that a recipe reads."""
    task = recipe.task
    columns = task.inputs(recipe.data)
    return ", ".join(columns + ([recipe.data.label] if task.labelled else []))


def _refuse(found: Sequence[Objection]) -> None:
    if found:
        text = "; ".join(map(str, found))
        raise PolicyError(f"outside this site's policy ({text})", [objection.key for objection in found])
