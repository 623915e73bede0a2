"""What a server knows about a run's data. The data is read, encoded and split; the model's weights are not loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.repeats import Repeats, find_repeats
from fedfm.data.settings import SITES
from fedfm.data.sources import Source
from fedfm.data.streams import Timetable
from fedfm.errors import Gathering, RecipeError
from fedfm.hosts.stream_tasks import tested_tasks
from fedfm.hosts.training_data import TrainingData, processor_of, read_training, recipe_source
from fedfm.models.processors import Processor
from fedfm.printable import line
from fedfm.privacy.randomized_response import estimated
from fedfm.randomness import numpy_generator
from fedfm.recipe import Recipe
from fedfm.recipe.cohorts import check_cohort
from fedfm.tasks import Task
from fedfm.tasks.public import PublicData, PublicTexts, read_public, read_public_texts
from fedfm.tasks.public_pairs import PublicPairs, read_public_pairs

Split = Literal["test", "validation"]

SPLITS: tuple[Split, ...] = ("test", "validation")

PUBLIC, PLUG_IN_PUBLIC = "public", "proxy.plug_in.public"
"""Recipe keys that name public data."""


@dataclass(frozen=True)
class FederatedData:
    """Everything that a server knows about a run's data.

    Attributes:
        recipe: the recipe, with the values that depend on the data filled in (clients, cohort size, partition).
        task: of the run.
        processor: tokenizer or image processor.
        labels: the classes; None for tasks without classes.
        clients: client id → number of its training examples; 0 where the server does not know it.
        training: the clients' data, in a simulation; None for real sites.
        validation: with ``evaluate.patience``, chooses the round whose model is exported; None if the recipe has none.
        test: examples that all reported metrics are computed on.
        test_source: of ``test``.
        digests: split → digest of its source's content.
        root: labelled examples that the server trains on; None if the recipe has none.
        public: unlabelled public data; read only if a proxy is fitted on it.
        plug_in_public: what the plug-in learns from; the same, unless the recipe names other data.
        public_texts: the same as texts; read only if a protocol uses them.
        public_pairs: the same as pairs of an image and a text, where the task is on these.
        repeats: examples that splits share, or that a split has more than once.
        notes: sentences that say what was left out when the data was read.
        test_tasks: int64 [N], the task of each test example in the recipe's stream; None without a stream.
        label_answers: site → how many of its examples answered each class under randomised response, and ε.
    """

    recipe: Recipe
    task: Task
    processor: Processor
    labels: LabelMap | None
    clients: dict[str, int]
    training: TrainingData | None
    validation: Examples | None
    test: Examples
    test_source: Source
    digests: dict[str, str]
    root: Examples | None = None
    public: PublicData | None = None
    plug_in_public: PublicData | None = None
    public_texts: PublicTexts | None = None
    public_pairs: PublicPairs | None = None
    repeats: tuple[Repeats, ...] = ()
    notes: tuple[str, ...] = ()
    test_tasks: np.ndarray | None = None
    label_answers: Mapping[str, tuple[Sequence[int], float]] = field(default_factory=dict)

    @property
    def timetable(self) -> Timetable | None:
        """What clients train on in which round; None: on all their examples in every round."""
        return None if self.training is None else self.training.timetable

    def present(self, round: int) -> Mapping[str, int]:  # noqa: A002 - the field's word
        """Client id → training examples, of the clients that are there and have something to train on in a round."""
        federation = self.recipe.federation
        there = {client: size for client, size in self.clients.items() if federation.is_there(client, round)}
        if self.training is None or self.timetable is None:
            return there
        present = self.timetable.present(self.training.federation.train, round)
        return {client: size for client, size in there.items() if client in present}

    @property
    def warnings(self) -> list[str]:
        """Sentences about the data that a reader of its metrics must know."""
        return [*self.notes, *(found.describe() for found in self.repeats)]

    @property
    def cut(self) -> dict[str, np.ndarray]:
        """Split → tokens that truncation has cut off each of its examples, [N]; of texts at the server only."""
        training = None if self.training is None else self.training.train
        splits = {"train": training, "validation": self.validation, "test": self.test}
        return {name: found.cut for name, found in splits.items() if found is not None and found.cut is not None}

    def client_test_sets(self) -> tuple[Examples, dict[str, np.ndarray]]:
        """Examples to evaluate each client on: those it holds out, else the test examples whose column names it.

        Returns:
            The examples, and client id → indices into them, for at most ``evaluate.clients`` clients (a keyed choice);
            an empty mapping where no client has such examples.
        """
        if self.training is not None and self.training.federation.holdout:
            examples, sets = self.training.train, dict(self.training.federation.holdout)
        elif self.test.clients is not None:
            examples = self.test
            sets = {client: np.flatnonzero(self.test.clients == client) for client in self.clients}
            sets = {client: indices for client, indices in sets.items() if len(indices)}
        else:
            return self.test, {}
        return examples, {client: sets[client] for client in self._chosen(sets)}

    def unseen_sets(self) -> tuple[Examples, dict[str, np.ndarray]]:
        """The examples of clients that never train, as `client_test_sets`; none where there are no such clients."""
        if self.training is None:
            return self.test, {}
        sets = self.training.federation.unseen
        return self.training.train, {client: sets[client] for client in self._chosen(sets)}

    def evaluating_clients(self) -> list[str]:
        """Clients that are asked to evaluate: of a simulation those that hold examples out, of real sites all."""
        return self._chosen(self.clients if self.training is None else self.training.federation.holdout)

    def clients_with_adapters(self) -> list[str]:
        """Clients whose own adapter is written; they are those that evaluate, where all clients can."""
        return self._chosen(self.clients)

    def _chosen(self, clients: Iterable[str]) -> list[str]:
        """At most ``evaluate.clients`` of some clients, a keyed choice; without those that are left out."""
        most = self.recipe.evaluate.clients
        drawn = numpy_generator(self.recipe.seed, "evaluated clients").permutation(sorted(clients))[:most]
        return sorted({str(name) for name in drawn} - set(self.recipe.federation.without))

    def table(self) -> list[dict[str, object]]:
        """One row for each client, as `ClientSplit.table`; for real sites what they told."""
        if self.training is not None:
            rows = self.training.federation.table(self.training.train, self.labels, self.task)
            return [row for row in rows if row["id"] not in self.recipe.federation.without]
        return [
            {"id": name, "examples": examples, **self._told(name), "holdout": 0}
            for name, examples in self.clients.items()
        ]

    def _told(self, site: str) -> dict[str, object]:
        """The classes of a site's examples: an estimate where it told them under randomised response, with its ε."""
        if self.labels is None or site not in self.label_answers:
            return {"labels": None}
        answers, epsilon = self.label_answers[site]
        counts = [max(0, round(number)) for number in estimated(answers, epsilon)]
        return {"labels": dict(zip(self.labels.names, counts, strict=True)), "label_epsilon": epsilon}


def prepare_data(recipe: Recipe, sites: Sequence[str] = ()) -> FederatedData:
    """Reads, encodes and splits the data.

    Args:
        recipe: of the run.
        sites: names of the sites; empty in a simulation.

    Raises:
        RecipeError: recipe and data do not fit; the message says what to change.
        DataError: a file cannot be read.
    """
    gathering, training = Gathering(), None
    if recipe.data.train != SITES:
        with gathering.attempt():
            training = read_training(recipe)
    held_back = {} if training is None else training.held_back
    sources: dict[str, Source | None] = {}
    for name in SPLITS:
        with gathering.attempt():
            sources[name] = held_back.get(name) or _named(recipe, name)
    if recipe.data.root is not None:
        with gathering.attempt():
            sources["root"] = recipe_source(recipe, recipe.data.root, "train", where="data.root")
    gathering.tell()
    if sources["test"] is None:
        raise RecipeError("nothing to evaluate on: name a file, or a fraction such as 0.2", where="data.test")
    digests = {"train": training.digest} if training else {}
    digests |= {name: source.digest for name, source in sources.items() if source is not None}
    if training is None:
        labels, processor = recipe.task.label_map(sources["test"], recipe.data), processor_of(recipe)
        recipe, clients = _at_sites(recipe, labels, len(sites)), dict.fromkeys(sites, 0)
    else:
        labels, processor = training.labels, training.processor
        recipe, clients = training.recipe, training.federation.sizes
    _refuse_unknown(recipe.federation.without, clients)
    task, public_texts, public_pairs = recipe.task, None, None
    encoded: dict[str, Examples] = {}
    for split, source in sources.items():
        if source is not None:
            with gathering.attempt():
                encoded[split] = task.encode(source, recipe.data, processor, labels)
    public = _public(recipe, processor, gathering)
    with gathering.attempt():
        public_texts = _public_texts(recipe, processor)
        public_pairs = _public_pairs(recipe, processor)
    test_tasks = None
    if training is not None and training.timetable is not None and "test" in encoded:
        with gathering.attempt():
            test_tasks = tested_tasks(
                recipe, training.timetable, sources["test"], encoded["test"], labels, training.train
            )
    gathering.tell()
    digests |= {key: found.digest for key, found in public.items()}
    if public_texts is not None:
        digests[PUBLIC] = public_texts.digest
    if public_pairs is not None:
        digests[PUBLIC] = public_pairs.digest
    known = {name: source for name, source in sources.items() if source is not None}
    examples = dict(encoded)
    if training is not None:
        known["train"], examples["train"] = training.source, training.train
    return FederatedData(
        recipe=recipe,
        task=task,
        processor=processor,
        labels=labels,
        clients=clients,
        training=training,
        validation=encoded.get("validation"),
        test=encoded["test"],
        test_source=known["test"],
        digests=digests,
        root=encoded.get("root"),
        public=public.get(PUBLIC),
        plug_in_public=public.get(PLUG_IN_PUBLIC, public.get(PUBLIC)),
        public_texts=public_texts,
        public_pairs=public_pairs,
        test_tasks=test_tasks,
        repeats=tuple(find_repeats(known, task.inputs(recipe.data))),
        notes=tuple(dict.fromkeys(note for source in known.values() for note in source.notes))
        + _notes(examples)
        + _unseen(recipe, training),
    )


def _notes(examples: Mapping[str, Examples]) -> tuple[str, ...]:
    """What was cut and left out of each split's examples."""
    return tuple(f"data.{split}: {note}" for split, found in examples.items() for note in found.notes)


def _unseen(recipe: Recipe, training: TrainingData | None) -> tuple[str, ...]:
    """Which tasks of the stream the run does not reach."""
    if training is None or training.timetable is None:
        return ()
    timetable, rounds = training.timetable, recipe.federation.rounds
    left = timetable.names[timetable.task(rounds) + 1 :]
    if not left:
        return ()
    return (
        f"federation.rounds ({rounds}) ends before {len(left)} of {len(timetable.names)} tasks of the stream begin, "
        f"first `{left[0]}`",
    )


def _public(recipe: Recipe, processor: Processor, gathering: Gathering) -> dict[str, PublicData]:
    """Public data that a proxy is fitted on, by the key that names it; none where the recipe has no proxy."""
    named = {PUBLIC: recipe.public, PLUG_IN_PUBLIC: recipe.proxy.plug_in_public} if recipe.proxy.is_sent else {}
    found = {}
    for key, settings in named.items():
        if settings is not None:
            with gathering.attempt():
                found[key] = read_public(
                    settings,
                    processor,
                    max_length=recipe.data.max_length,
                    seed=recipe.seed,
                    pairs=len(recipe.data.text) == 2,
                    allow_network=recipe.allow_network,
                    where=key,
                )
    return found


def _public_texts(recipe: Recipe, processor: Processor) -> PublicTexts | None:
    """The public data as texts, if the recipe's protocol uses them.

    Raises:
        RecipeError: at ``protocol.examples``: a round needs more than there are.
    """
    needed = recipe.protocol.public_examples
    if recipe.public is None or not needed or recipe.task.modality == "image-text":
        return None
    found = read_public_texts(
        recipe.public,
        cast(PreTrainedTokenizerBase, processor),
        max_length=recipe.data.max_length,
        seed=recipe.seed,
        pairs=len(recipe.data.text) == 2,
        allow_network=recipe.allow_network,
    )
    _check_enough(found, needed)
    return found


def _public_pairs(recipe: Recipe, processor: Processor) -> PublicPairs | None:
    """As `_public_texts`, for a task on pairs of an image and a text."""
    needed = recipe.protocol.public_examples
    if recipe.public is None or not needed or recipe.task.modality != "image-text":
        return None
    found = read_public_pairs(
        recipe.public, recipe.task, recipe.data, processor, seed=recipe.seed, allow_network=recipe.allow_network
    )
    _check_enough(found, needed)
    return found


def _check_enough(found: PublicTexts | PublicPairs, needed: int) -> None:
    if len(found) < needed:
        raise RecipeError(
            f"a round needs {needed} public examples, but `public` has only {len(found)}; lower it, or give more data",
            where="protocol.examples",
        )


def _named(recipe: Recipe, split: Split) -> Source | None:
    """The source of a split that is not held back from the training data."""
    reference = getattr(recipe.data, split)
    if reference is None or isinstance(reference, float):
        return None
    return recipe_source(recipe, reference, split)


def _refuse_unknown(without: Sequence[str], clients: Mapping[str, int]) -> None:
    """Refuses to leave out clients that are not there, or all of them."""
    where = "federation.without"
    if unknown := [line(client) for client in without if client not in clients]:
        raise RecipeError(f"no client is called {', '.join(unknown)}; `fedfm data` lists them", where=where)
    if clients and clients.keys() <= set(without):
        raise RecipeError("no client is left", where=where)


def _at_sites(recipe: Recipe, labels: LabelMap | None, clients: int) -> Recipe:
    """The recipe for real sites: with their number, and the class names that they need."""
    data = recipe.data.model_copy(update={"labels": None if labels is None else list(labels.names)})
    per_round = check_cohort(recipe, clients)
    known = {"clients": clients, "per_round": recipe.federation.per_round or per_round}
    return recipe.model_copy(update={"data": data, "federation": recipe.federation.model_copy(update=known)})
