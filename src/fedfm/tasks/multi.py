"""Several tasks at once: one backbone and one shared tunable, and a head for each task.

Caruana, Multitask Learning, Machine Learning 28 (1997), doi:10.1023/A:1007379606734; in federated learning Smith et
al., Federated Multi-Task Learning, arXiv:1705.10467, where tasks are clients, and here clients have tasks.

The model is a sequence classifier with the outputs of all tasks one after the other; the head of a task is its rows of
the last layer. An example is of one task t and has the loss

    w_t · ℓ_t(outputs of t, y) / (numbers that t predicts of an example)

so that batches may mix tasks: an example's loss depends on nothing else in its batch. Training minimises the mean over
examples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetInfo, Features, Value, concatenate_datasets
from pydantic import Field, field_validator
from torch import Tensor
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from fedfm.capabilities import LABELS, SEVERAL_TASKS, SIMULATED_CLIENTS, STEADY_EXAMPLES, TUNABLE_UPDATES, WHOLE_VIEWS
from fedfm.data.columns import clients_of, text_column
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.settings import BY_TASK, DataSettings, Reference
from fedfm.data.sources import Source, SourceFile, Split
from fedfm.errors import RecipeError
from fedfm.settings import Capabilities
from fedfm.tasks.base import Batch, ClassScore, Collate, HeldOutputs, Measured, PerClass, Task, TaskPart
from fedfm.tasks.named import AnyNamedTask, NamedTask
from fedfm.tasks.shown import ShownExample

TASK, INPUT, CLIENT = "task", "input", "client"
"""Columns of a source of several tasks, beside those of each task, which are called ``NAME.COLUMN``."""

MEAN = "mean_score"
"""The metric of a run: the mean over tasks of each task's first metric of which higher is better."""


class MultiTask(Task):
    """Several tasks on texts, each with its own head on one shared model."""

    takes = {LABELS: "its examples are of several tasks"}
    gives = frozenset({SEVERAL_TASKS})
    needs = {
        SIMULATED_CLIENTS: "the server knows which client has which task",
        STEADY_EXAMPLES: "the examples of its tasks are dealt to clients before round 1",
    }

    kind: Literal["multi"] = "multi"
    """Several tasks at once, each with its own head on one shared model."""
    tasks: Annotated[list[AnyNamedTask], Field(min_length=1)]
    """The tasks."""
    heads: Literal["own", "all"] = "own"
    """Which heads a client holds: `own`, those of the tasks that it has examples of, so that a head is the mean over
    these clients; `all`, where a client sends other heads unchanged."""
    held: dict[str, list[str]] = {}
    """Client → names of its tasks, of clients that have only some; the run fills it in."""
    modality = "text"
    auto_class = AutoModelForSequenceClassification
    peft_type = "SEQ_CLS"
    problem_type = "regression"  # to transformers, outputs of several kinds are numbers
    labelled = True
    names_columns = True

    @field_validator("tasks")
    @classmethod
    def _names_differ(cls, tasks: list[NamedTask]) -> list[NamedTask]:
        names = [task.name for task in tasks]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"`{repeated}` is given twice; names of tasks must differ")
        return tasks

    def capabilities(self) -> Capabilities:
        """With `heads: own`, clients hold different parts of the tunable."""
        said = super().capabilities()
        if self.heads == "all":
            return said
        needs = {TUNABLE_UPDATES: "the server folds what a client returns into the heads of its tasks"}
        takes = {WHOLE_VIEWS: "a client holds the heads of its own tasks only; set task.heads=all"}
        return Capabilities({**said.needs, **needs}, said.gives, {**said.takes, **takes})

    @property
    def metrics(self) -> Mapping[str, bool]:  # type: ignore[override]
        """The metrics of all tasks, each with the name of its task; first their mean."""
        own = {f"{metric}.{task.name}": higher for task in self.tasks for metric, higher in task.metrics.items()}
        return MappingProxyType({MEAN: True, **own})

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(task.name for task in self.tasks)

    def part(self, name: str, data: DataSettings) -> TaskPart:
        """One of the tasks, on its own."""
        task, outputs = next((task, outputs) for task, outputs in self._outputs() if task.name == name)
        return TaskPart(task.plain(), task.settings(data), LabelMap(tuple(task.names)), outputs)

    @property
    def outputs_held(self) -> HeldOutputs | None:
        """The outputs of each client's tasks; None where every client has all tasks, or holds all heads."""
        if self.heads == "all" or not self.held:
            return None
        outputs = {task.name: part for task, part in self._outputs()}
        total = sum(len(task.names) for task in self.tasks)
        return HeldOutputs(total, {client: tuple(outputs[name] for name in own) for client, own in self.held.items()})

    def refuses(self, split: str, data: DataSettings) -> str | None:
        """A source of each task where `tasks` says so, else none of any task."""
        own = [task.name for task in self.tasks if getattr(task, split, None) is not None]
        if getattr(data, split) != BY_TASK:
            return f"the task {own[0]} of task.tasks has a source of its own: set it to {BY_TASK}" if own else None
        if split not in NamedTask.model_fields:
            return f"the tasks of task.tasks have no `{split}` of their own: name a file that has the columns of all"
        missing = [task.name for task in self.tasks if task.name not in own]
        return f"the task {missing[0]} of task.tasks needs a source of its own: give it `{split}`" if missing else None

    def inputs(self, data: DataSettings) -> list[str]:
        """An example is an input of a task."""
        return [TASK, INPUT]

    def read(
        self,
        reference: Reference,
        split: Split,
        data: DataSettings,
        *,
        where: str,
        allow_network: bool,
        beside: Sequence[RequestedColumn] = (),
    ) -> Source:
        """The sources of all tasks, one after the other."""
        parts = []
        for number, task in enumerate(self.tasks):
            own, place = reference, where
            if reference == BY_TASK:
                own, place = getattr(task, split), f"task.tasks[{number}].{split}"
            settings = task.settings(data)
            parts.append(task.read(own, split, settings, where=place, allow_network=allow_network, beside=beside))
        tables = [_table(task, part, data) for task, part in zip(self.tasks, parts, strict=True)]
        named = all(CLIENT in table.column_names for table in tables)
        if not named:
            tables = [table.remove_columns(CLIENT) if CLIENT in table.column_names else table for table in tables]
        said = [[task.name, task.text, task.label, part.digest] for task, part in zip(self.tasks, parts, strict=True)]
        return Source(
            concatenate_datasets(tables),
            hashlib.sha256(json.dumps([said, data.client]).encode()).hexdigest(),
            f"{len(parts)} tasks ({split})",
            split=split,
            parts=tuple(
                file for part in parts for file in part.parts or (SourceFile(part.name, part.name, len(part)),)
            ),
            notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        )

    def label_map(self, source: Source, data: DataSettings) -> LabelMap:
        """The outputs of all tasks, as ``NAME.LABEL``.

        Raises:
            RecipeError, DataError: as the `label_map` of a task; a task has no examples.
        """
        names = []
        for number, task in enumerate(self.tasks):
            rows, part = _part(task, source)
            if not len(rows):
                raise RecipeError(
                    f"{source.name} has no example of the task {task.name}", where=f"task.tasks[{number}]"
                )
            found = task.label_map(part, task.settings(data))
            if found is None:
                raise ValueError(f"the task {task.name} has no labels")
            names += [f"{task.name}.{name}" for name in found.names]
        return LabelMap(tuple(names))

    def settled(self, labels: LabelMap | None, examples: Examples, clients: Mapping[str, np.ndarray]) -> Self:
        """With the labels of each task, and with the tasks of each client that does not have all."""
        tasks = [task.model_copy(update={"labels": own}) for task, own in self._split(labels)]
        numbers, every = self.numbers(examples), list(range(len(tasks)))
        found = {client: np.unique(numbers[indices]).tolist() for client, indices in clients.items()}
        held = {client: [tasks[number].name for number in own] for client, own in found.items() if own != every}
        return self.model_copy(update={"tasks": tasks, "held": held})

    def numbers(self, examples: Examples) -> np.ndarray:
        """The number of each example's task."""
        if examples.targets is None:
            raise ValueError("the examples have no tasks")
        return examples.targets[:, 0].astype(np.int64)

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """Each example as its task encodes it; `targets` are the task's number and what is to be predicted."""
        places, found, written = [], [], []
        for number, (task, names) in enumerate(self._split(labels)):
            rows, part = _part(task, source)
            if not len(rows):
                continue
            own = task.model_copy(update={"labels": names})
            settings = own.settings(data).model_copy(update={"client": None})  # the part has no such column
            examples = own.encode(part, settings, processor, LabelMap(tuple(names)))
            places.append(rows)
            found.append(examples)
            written.append(np.column_stack([np.full(len(rows), number), own.written_targets(examples)]))
        width = max(part.shape[1] for part in written)
        targets = np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in written])
        back = np.argsort(np.concatenate(places))
        table = concatenate_datasets([examples.table for examples in found])
        cuts = [examples.cut for examples in found if examples.cut is not None]
        return Examples(
            table if (np.diff(back) == 1).all() else table.select(back),
            np.concatenate([examples.lengths for examples in found])[back],
            clients=np.array(source.table[CLIENT], dtype=object) if CLIENT in source.table.column_names else None,
            cut=np.concatenate(cuts)[back] if len(cuts) == len(found) else None,
            notes=tuple(note for examples in found for note in examples.notes),
            targets=targets[back].astype(np.float32),
        )

    def collate(self, processor: Any, seed: int) -> Collate:
        """Pads to the longest example of the batch."""
        pad = DataCollatorWithPadding(processor)
        return lambda rows: pad([dict(row) for row in rows])

    def show(self, row: Mapping[str, Any], processor: Any, names: Sequence[str] | None) -> ShownExample:
        """As its task shows it, with the name of the task before the label."""
        number, *written = row["labels"]
        task = self.tasks[int(number)]
        own = {**row, "labels": task.read_targets(torch.tensor([written]))[0].tolist()}
        shown = task.show(own, processor, task.names)
        return replace(shown, label=f"{task.name}: {shown.label}")

    def predictions(self, batch: Batch) -> Tensor:
        """One of each example, however many numbers its task predicts."""
        return torch.ones(len(batch["labels"]), dtype=torch.int64, device=batch["labels"].device)

    def losses(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The weighted mean loss of each example under its own task; outputs ``[B, outputs of all tasks]``."""
        labels = batch["labels"]
        totals = outputs.new_zeros(len(labels))
        for number, (task, part) in enumerate(self._outputs()):
            mine = labels[:, 0] == number
            answers = torch.where(mine[:, None], labels[:, 1:], 0)  # those of other tasks mean nothing here
            losses, counts = task.losses(outputs[:, part], {"labels": task.read_targets(answers)})
            totals = totals + torch.where(mine, task.weight * losses / counts, 0)
        return totals, self.predictions(batch)

    def measure(self, outputs: Tensor, batch: Batch) -> Measured:
        """What each task measures of its own examples, as ``NAME.KEY``; empty where a batch has none."""
        labels, found = batch["labels"], Measured()
        for number, (task, part) in enumerate(self._outputs()):
            mine = labels[:, 0] == number
            own = task.measure(outputs[mine][:, part], {"labels": task.read_targets(labels[mine, 1:])})
            found |= {f"{task.name}.{key}": values for key, values in own.items()}
        return found

    def score(self, measured: Measured, loss: float, names: Sequence[str] = ()) -> dict[str, float]:
        """The metrics of each task, NaN where there is no example of it, and the mean over the others."""
        scores: dict[str, float] = {}
        for task, own in self._measured(measured):
            found = task.score(own, loss, task.names) if own else dict.fromkeys(task.metrics, float("nan"))
            scores |= {f"{metric}.{task.name}": value for metric, value in found.items()}
        main = [scores[f"{task.main_metric}.{task.name}"] for task, own in self._measured(measured) if own]
        return {MEAN: float(np.mean(main)), **scores}

    def per_class(self, measured: Measured, names: Sequence[str]) -> PerClass | None:
        """The scores of the labels of all tasks that have them."""
        classes = list[ClassScore]()
        for task, own in self._measured(measured):
            found = task.per_class(own, task.names) if own else None
            for score in found["classes"] if found else ():
                named = score.copy()
                named["label"] = f"{task.name}.{score['label']}"
                classes.append(named)
        return PerClass(classes=classes, confusion=[]) if classes else None

    def label_counts(self, examples: Examples, indices: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """How many of some examples have each label; of numbers, how many examples have them."""
        numbers, counts = self.numbers(examples)[indices], []
        for number, task in enumerate(self.tasks):
            own = indices[numbers == number]
            written = torch.from_numpy(np.asarray(examples.targets)[own, 1:])
            answers = task.read_targets(written).numpy()
            as_its_own = replace(examples, labels=answers) if answers.ndim == 1 else replace(examples, targets=answers)
            found = task.label_counts(as_its_own, np.arange(len(own)), task.names)
            counts.append(np.full(len(task.names), len(own)) if found is None else found)
        return np.concatenate(counts)

    def _measured(self, measured: Measured) -> Iterator[tuple[NamedTask, Measured]]:
        """Each task with what was measured of it; empty where there is no example of it."""
        for task in self.tasks:
            start = f"{task.name}."
            own = {key.removeprefix(start): value for key, value in measured.items() if key.startswith(start)}
            yield task, own if all(map(len, own.values())) else {}

    def _outputs(self) -> Iterator[tuple[NamedTask, slice]]:
        """Each task with the place of its outputs among those of the model."""
        ends = list(accumulate(len(task.names) for task in self.tasks))
        for task, end in zip(self.tasks, ends, strict=True):
            yield task, slice(end - len(task.names), end)

    def _split(self, labels: LabelMap | None) -> Iterator[tuple[NamedTask, list[str]]]:
        """Each task with the names of its own outputs."""
        if labels is None:
            raise RecipeError(
                f"this model has several tasks: choose one of {', '.join(self.part_names)} (--task)", where="task.kind"
            )
        for task in self.tasks:
            start = f"{task.name}."
            yield task, [name.removeprefix(start) for name in labels.names if name.startswith(start)]


def _columns(task: NamedTask) -> dict[str, str]:
    """A task's columns in a source of several tasks → their names in its own."""
    return {f"{task.name}.{column}": column for column in dict.fromkeys([*task.text, task.label])}


def _table(task: NamedTask, source: Source, data: DataSettings) -> Dataset:
    """The table of a task's own source, as a part of that of all tasks."""
    columns = {own: joined for joined, own in _columns(task).items()}
    texts = zip(*(text_column(source, column, "data.text") for column in task.text), strict=True)
    chosen = source.table.select_columns(list(columns)).rename_columns(columns)
    added = {TASK: [task.name] * len(source), INPUT: ["\n".join(text) for text in texts]}
    clients = clients_of(source, data.client)
    if clients is not None:
        added[CLIENT] = clients.tolist()
    table = chosen.with_format("arrow")[:]
    for name, values in added.items():
        table = table.append_column(name, pa.array(values, pa.string()))
    features = Features({**chosen.features, **dict.fromkeys(added, Value("string"))})
    return Dataset(table.cast(features.arrow_schema), DatasetInfo(features=features))


def _part(task: NamedTask, source: Source) -> tuple[np.ndarray, Source]:
    """Which examples of a source of several tasks are of one task, and they as a source of its own."""
    rows = np.flatnonzero(np.asarray(source.table[TASK]) == task.name)
    chosen, columns = source.select(rows), _columns(task)
    return rows, replace(chosen, table=chosen.table.select_columns(list(columns)).rename_columns(columns))
