"""A site's egress: what may cross it, what will, and what did."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from fedfm.clients.settings import LocalSettings
from fedfm.data.settings import shown
from fedfm.errors import FedfmError
from fedfm.models.tunable import Tunable
from fedfm.recipe import Recipe
from fedfm.records import jsonl
from fedfm.records.ledger import LAYER, message_record
from fedfm.records.units import size
from fedfm.runtimes.envelopes import Ended
from fedfm.sites.causes import Cause
from fedfm.sites.disclosure import PolicyError, PublicReason, UnannouncedError, public_reason
from fedfm.sites.journal import Journal, append, end_with_a_line
from fedfm.sites.policy import Objection, Policy
from fedfm.tasks import TASKS
from fedfm.updates import Failure, decode_update
from fedfm.wire import stored_bytes

REPEATS = 2
"""Updates of a run that leave, at most, for each of its rounds: a server that was killed asks again."""


class Egress:
    """Holds runs to a site's policy, says what will leave before anything does, and writes down what left.

    Attributes:
        policy: what may be asked of the site.
        announced: shapes of the tensors that leave, by name.
        ledger: ``wire.jsonl`` of the site, lines as in a run's, each with the ``run`` and digest of its ``job``.
        journal: of what the site refused, what failed and how runs ended, with the full reason.
    """

    def __init__(self, policy: Policy, folder: Path, say: Callable[[str], None]) -> None:
        """A egress.

        Args:
            policy: what may be asked of the site.
            folder: of the site's own records.
            say: gets lines for people: what will leave, what left, what was refused.
        """
        self.policy = policy
        self.ledger, self.journal = folder / "wire.jsonl", Journal(folder, say)
        self._say = say
        self.announced: dict[str, torch.Size] = {}
        end_with_a_line(self.ledger)
        self._left = Counter(line["job"] for line in jsonl.records(self.ledger))

    def admit(self, recipe: Recipe) -> None:
        """Takes a run that the policy allows.

        Raises:
            PolicyError: it does not, with everything that is outside it.
        """
        _refuse(self.policy.objections(recipe))

    def admit_model(self, digest: str | None) -> None:
        """Takes a model that the policy allows.

        Args:
            digest: of its weights; None: a proxy, whose origin cannot be verified.

        Raises:
            PolicyError: it does not.
        """
        _refuse(self.policy.objections_to_model(digest))

    def admit_download(self, size_bytes: int) -> None:
        """Takes a proxy whose files are as large as the policy allows.

        Raises:
            PolicyError: they are larger.
        """
        _refuse(self.policy.over("max_download_bytes", size_bytes))

    def admit_training(self, local: LocalSettings, examples: int) -> None:
        """Takes local training of as many steps, with batches as large, as the policy allows.

        Raises:
            PolicyError: it is more.
        """
        _refuse(self.policy.objections_to_training(local, examples))

    def announce(self, recipe: Recipe, tunable: Tunable, client: str, examples: int) -> None:
        """Says what will leave the site in every round, before the first.

        Raises:
            PolicyError: it is more than the policy allows.
        """
        params = tunable.read()
        self.announced = {name: tensor.shape for name, tensor in params.items()}
        total = stored_bytes(params)
        _refuse(self.policy.over("max_bytes", total))
        lines = [
            f"run {recipe.name}, as client {client}: {examples:,} examples of {shown(recipe.data.train)} stay here. It "
            f"learns from {_columns(recipe)}. In each of at most {recipe.federation.rounds} rounds, about "
            f"{size(total)} leave:"
        ]
        groups: dict[tuple[str, tuple[int, ...], str], int] = {}
        for name, tensor in params.items():
            key = (LAYER.sub("*", name), tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            groups[key] = groups.get(key, 0) + 1
        lines += [f"  {count} × {name} {list(shape)} {dtype}" for (name, shape, dtype), count in groups.items()]
        counts = ", how often each neuron of the FFN was used" if recipe.proxy.counts_at_clients else ""
        lines.append(f"  number of examples, steps and predictions, mean training loss{counts}")
        lines.append(f"  privacy: {recipe.privacy.kind}; what left is written to {self.ledger}")
        for line in lines:
            self._say(line)

    def refuse(self, error: BaseException, run: str | None) -> PublicReason:
        """Writes down why the site does not do what it was asked; the part of the reason that a server may have.

        Args:
            error: why.
            run: name of the run that it was asked for, where that is known.
        """
        foreseen = isinstance(error, FedfmError)
        details = "" if foreseen else "".join(traceback.format_exception(error))
        self.journal.note("refused", run, str(error) if foreseen else f"{type(error).__name__}: {error}", details)
        return public_reason(error)

    def part(self, ended: Ended) -> None:
        """Says how a run ended, and writes it down."""
        left = f"{self._left[ended.job]} updates have left this site for it, see {self.ledger}"
        self.journal.note("ended", ended.run, f"{ended.status} after {ended.rounds} rounds; {left}")

    def pass_answer(self, answer: bytes | Failure, recipe: Recipe, job: str) -> bytes | Failure:
        """What of an answer leaves: an update as it was announced, or that there is none.

        Raises:
            PolicyError: the policy does not allow it; nothing leaves.
            UnannouncedError: it is more than was announced; nothing leaves.
            StorageError: it cannot be written down; nothing leaves.
        """
        if isinstance(answer, bytes):
            self.pass_update(answer, recipe, job)
            return answer
        self.journal.note("failed", recipe.name, answer.reason, answer.details)
        return Failure(answer.client, str(PublicReason(Cause.TRAINING)), stale=answer.stale)

    def pass_update(self, update: bytes, recipe: Recipe, job: str) -> None:
        """Writes down an update that is about to leave; raises as `pass_answer`."""
        found = decode_update(update)
        rounds = recipe.federation.rounds
        _refuse(self.policy.over("max_bytes", len(update)))
        shapes = {name: tensor.shape for name, tensor in found.params.items()}
        more = {
            "tensors that were not announced": shapes != self.announced,
            "counts that were not announced": bool(found.activity) and not recipe.proxy.counts_at_clients,
            f"round {found.round} of {rounds}": not 1 <= found.round <= rounds,
            f"{self._left[job]} updates left for {rounds} rounds": self._left[job] >= REPEATS * rounds,
        }
        if any(more.values()):
            raise UnannouncedError(
                f"more than was announced ({'; '.join(what for what, is_so in more.items() if is_so)})"
            )
        line = message_record(found.round, "up", [found.client], len(update), found.tensors)
        append(self.ledger, {"run": recipe.name, "job": job, **line})
        self._left[job] += 1
        self._say(
            f"run {recipe.name}, round {found.round} of {rounds}: an update of {size(len(update))} leaves, "
            f"after {found.steps} steps with mean training loss {found.loss:.3f}"
        )


def _columns(recipe: Recipe) -> str:
    """The columns that a recipe reads."""
    task = TASKS[recipe.task.kind]
    columns = [recipe.data.image] if task.modality == "image" else recipe.data.text
    return ", ".join(columns + ([recipe.data.label] if task.labelled else []))


def _refuse(found: Sequence[Objection]) -> None:
    if found:
        text = "; ".join(map(str, found))
        raise PolicyError(f"outside this site's policy ({text})", [objection.key for objection in found])
