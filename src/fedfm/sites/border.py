"""A site's border: what may cross it, what will, and what did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fedfm.data.settings import shown
from fedfm.errors import FedfmError, RecipeError, StorageError
from fedfm.models.tunable import Tunable
from fedfm.recipe import Recipe
from fedfm.records import disk, jsonl
from fedfm.records.ledger import LAYER, message_record
from fedfm.records.units import size
from fedfm.sites.policy import Policy
from fedfm.tasks import TASKS
from fedfm.updates import Failure, decode_update
from fedfm.wire import stored_bytes


class PolicyError(FedfmError):
    """A server wants what this site's policy does not allow, or more than it announced."""


class VersionError(FedfmError):
    """Server and site have different versions of fedfm."""


TOLD = (PolicyError, VersionError)
"""Errors whose text a server gets: there is nothing in it that the server does not know."""

REPEATS = 2
"""Updates of a run that leave, at most, for each of its rounds: a server that was killed asks again."""


class Border:
    """Holds runs to a site's policy, says what will leave before anything does, and writes down what left.

    Attributes:
        policy: what may be asked of the site.
        announced: shapes of the tensors that leave, by name.
        ledger: ``wire.jsonl`` of the site, lines as in a run's, each with the ``run`` and digest of its ``job``.
    """

    def __init__(self, policy: Policy, folder: Path, say: Callable[[str], None]) -> None:
        """A border.

        Args:
            policy: what may be asked of the site.
            folder: of the site's own records.
            say: is told, in lines for people, what will leave.
        """
        self.policy = policy
        self.ledger = folder / "wire.jsonl"
        self._say = say
        self.announced: dict[str, torch.Size] = {}
        _end_with_a_line(self.ledger)
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
            digest: of its weights; None: a proxy, of which nobody can say what it was made of.

        Raises:
            PolicyError: it does not.
        """
        _refuse([self.policy.objection_to_model(digest)])

    def announce(self, recipe: Recipe, tunable: Tunable, client: str, examples: int) -> None:
        """Says what will leave the site in every round, before the first.

        Raises:
            PolicyError: it is more than the policy allows.
        """
        params = tunable.read()
        self.announced = {name: tensor.shape for name, tensor in params.items()}
        total = stored_bytes(params)
        _refuse([self.policy.objection_to_size(total)])
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

    def why(self, error: FedfmError) -> str:
        """What a server is told of an error: its kind and place, never what is in the site's data or files."""
        if isinstance(error, TOLD):
            return str(error)
        self._say(f"refused: {error}")
        places = (
            [problem.where for problem in error.problems if problem.where] if isinstance(error, RecipeError) else []
        )
        place = f" at {', '.join(places)}" if places else ""
        return f"the run does not fit what is at the site{place} ({type(error).__name__}); its own log says why"

    def pass_answer(self, answer: bytes | Failure, recipe: Recipe, job: str) -> bytes | Failure:
        """What of an answer leaves: an update as it was announced, or that there is none.

        Raises:
            PolicyError: it is more than was announced, or than the policy allows; nothing leaves.
            StorageError: it cannot be written down; nothing leaves.
        """
        if isinstance(answer, bytes):
            self.pass_update(answer, recipe, job)
            return answer
        self._say(f"no update: {answer.reason}\n{answer.details}")
        return Failure(answer.client, "the client could not be trained; its own log says why", stale=answer.stale)

    def pass_update(self, update: bytes, recipe: Recipe, job: str) -> None:
        """Writes down an update that is about to leave; raises as `pass_answer`."""
        found = decode_update(update)
        rounds = recipe.federation.rounds
        shapes = {name: tensor.shape for name, tensor in found.params.items()}
        _refuse(
            [
                self.policy.objection_to_size(len(update)),
                None if shapes == self.announced else "tensors that were not announced",
                "counts that were not announced" if found.activity and not recipe.proxy.counts_at_clients else None,
                None if 1 <= found.round <= rounds else f"round {found.round} of {rounds}",
                None if self._left[job] < REPEATS * rounds else f"{self._left[job]} updates left for {rounds} rounds",
            ]
        )
        line = message_record(found.round, "up", [found.client], len(update), found.tensors)
        record: dict[str, Any] = {"run": recipe.name, "job": job, **line}
        try:
            with disk.storage(self.ledger, "write"):
                self.ledger.parent.mkdir(parents=True, exist_ok=True)
                with self.ledger.open("ab") as lines:
                    lines.write(jsonl.line(record))
        except StorageError:
            _end_with_a_line(self.ledger)
            raise
        self._left[job] += 1


def _columns(recipe: Recipe) -> str:
    """The columns that a recipe reads."""
    task = TASKS[recipe.task.kind]
    columns = [recipe.data.image] if task.modality == "image" else recipe.data.text
    return ", ".join(columns + ([recipe.data.label] if task.labelled else []))


def _end_with_a_line(path: Path) -> None:
    """Cuts off what there is of a line that was not written to its end."""
    if path.is_file():
        with disk.storage(path, "mend"), path.open("r+b") as lines:
            text = lines.read()
            lines.truncate(text.rfind(b"\n") + 1)


def _refuse(found: Sequence[str | None]) -> None:
    objections = [objection for objection in found if objection is not None]
    if objections:
        raise PolicyError(f"outside this site's policy ({'; '.join(objections)})")
