"""How learning rates, rounds, FedOT's form and plug-in distillation are chosen: on validation data, before any test.

All choices are made with one seed that is not among those of the tables, on validation data alone:

1. Rounds, for each set and partition: the full model is run with one rate for 15 rounds. If its validation accuracy
   gains less than 0.5 points over the last fifth of the rounds, it has converged; else it is run for 25 rounds, then
   for 40, which is the most. All methods get these rounds.
2. Learning rate, for each method and partition: of four, that with the highest mean validation accuracy over the sets.
3. FedOT's form (LoRA r 8, LoRA r 24, its own layers): the one with the highest validation accuracy on the even split.
   Its rate is chosen on each partition.

α = 5 and α = 10 take the choices of the even split; parts of FedPFT and its variants take FedPFT's rate. Stronger
compression takes the rates and forms of the matched size, and chooses whether the plug-in is distilled. A choice is
stored with the figures that led to it, and is read from then on: results that come later do not change it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from fedpft_jobs import Job, subject_of
from fedpft_methods import FEDOT, FEDOT_FORMS, METHODS, TUNED_ON, Scale, Subject
from ledger import digest, kept, measured

TUNING_SEED = 100
"""Not among the seeds of the tables."""

ROUNDS_RATE = 2e-3
"""The learning rate of the runs from which rounds are chosen."""

CONVERGED = 0.005
"""Gain in accuracy over the last fifth of the rounds below which a run has converged."""

Plug = Literal["plugged", "distilled"]
PLUGS: tuple[Plug, ...] = ("plugged", "distilled")

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Choice:
    """What was chosen for a method on a partition.

    Attributes:
        method: the method itself; of FedOT its form.
        learning_rate: of clients.
        plug: the evaluation that counts.
        validation: mean accuracy over the sets with it.
        tries: the mean validation accuracy of every try.
    """

    method: str
    learning_rate: float
    plug: Plug
    validation: float
    tries: Mapping[str, float]


@dataclass(frozen=True)
class Cell:
    """One run of a table, before it is known with which settings."""

    data: str
    method: str
    partition: str
    size: str
    seed: int


@dataclass(frozen=True)
class MissingRuns(Exception):  # noqa: N818 - not an error: these runs come first
    """A choice needs runs that are not there yet."""

    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class Protocol:
    """Choices, from the validation results that are there.

    Attributes:
        results: all results by key.
        subject: its sets are chosen for together.
        scale: of the measurement.
        ledger: where choices are stored.
    """

    results: Results
    subject: Subject
    scale: Scale
    ledger: str

    def job(self, cell: Cell) -> Job:
        """The run on the test set, with all that was chosen.

        Raises:
            MissingRuns: something is not chosen yet.
        """
        chosen = self.choice(cell.method, cell.partition, cell.size)
        rounds = self.rounds(cell.data, cell.partition)
        return self._job(cell.data, chosen.method, cell.seed, chosen.learning_rate, rounds, cell.partition, cell.size)

    def rounds(self, data: str, partition: str) -> int:
        """Rounds of a set's runs on a partition.

        Raises:
            MissingRuns: runs of the full model are missing.
        """
        tuned = TUNED_ON[partition]
        name = f"rounds, {data}, {tuned}"
        found: int = self._stored(name, ("full",), lambda: self._choose_rounds(data, tuned))["rounds"]
        return found

    def choice(self, method: str, partition: str, size: str) -> Choice:
        """The choice of a method.

        Raises:
            MissingRuns: runs of the tuning are missing.
        """
        tuned, own = TUNED_ON[partition], METHODS[method].tuned_as if method != FEDOT else None
        if own is not None:
            taken = self.choice(own, tuned, size)
            return Choice(method, taken.learning_rate, "plugged", taken.validation, taken.tries)
        name = f"choice, {self.subject.title}, {tuned}, {method}, {size}"
        choose, methods = (self._choose_form, FEDOT_FORMS) if method == FEDOT else (self._choose, (method,))
        return Choice(**self._stored(name, methods, lambda: vars(choose(method, tuned, size))))

    def _choose_rounds(self, data: str, partition: str) -> dict[str, Any]:
        for rounds in self.scale.rounds:
            (run,) = self._of([self._tuning("full", data, ROUNDS_RATE, rounds, partition, "matched")])
            curve = run["curve"]
            gain = curve[str(rounds)] - curve[str(_before_the_last_fifth(curve, rounds))]
            if gain < CONVERGED or rounds == self.scale.rounds[-1]:
                return {"rounds": rounds, "gain": gain, "converged": gain < CONVERGED}
        raise ValueError("no number of rounds is to be tried")

    def _choose_form(self, method: str, partition: str, size: str) -> Choice:
        if size != "matched":
            return self._choose(self.choice(method, partition, "matched").method, partition, size)
        if partition != "iid":
            return self._choose(self.choice(method, "iid", size).method, partition, size)
        missing: list[Job] = []
        found: list[Choice] = []
        for form in FEDOT_FORMS:
            try:
                found.append(self.choice(form, partition, size))
            except MissingRuns as wanted:
                missing += wanted.jobs
        if missing:
            raise MissingRuns(tuple(missing))
        best = max(found, key=lambda choice: choice.validation)
        tries = {f"{form.method}, {name}": value for form in found for name, value in form.tries.items()}
        return Choice(best.method, best.learning_rate, best.plug, best.validation, tries)

    def _choose(self, method: str, partition: str, size: str) -> Choice:
        rates = METHODS[method].rates
        if size != "matched":
            rates = (self.choice(method, partition, "matched").learning_rate,)
        jobs = {
            rate: [
                self._tuning(method, data, rate, rounds, partition, size)
                for data, rounds in self._rounds_of_all(partition).items()
            ]
            for rate in rates
        }
        self._of([job for of_rate in jobs.values() for job in of_rate])
        tries: dict[tuple[float, Plug], float] = {}
        for rate, of_rate in jobs.items():
            found = self._of(of_rate)
            for plug in PLUGS:
                if all(result[plug] is not None for result in found):
                    tries[rate, plug] = statistics.mean(result[plug] for result in found)
        rate, plug = max(tries, key=lambda name: tries[name])
        named = {f"{rate:g} {plug}": value for (rate, plug), value in tries.items()}
        return Choice(method, rate, plug, tries[rate, plug], named)

    def _rounds_of_all(self, partition: str) -> dict[str, int]:
        missing: list[Job] = []
        found: dict[str, int] = {}
        for data in self.subject.sets:
            try:
                found[data] = self.rounds(data, partition)
            except MissingRuns as wanted:
                missing += wanted.jobs
        if missing:
            raise MissingRuns(tuple(missing))
        return found

    def _tuning(self, method: str, data: str, rate: float, rounds: int, partition: str, size: str) -> Job:
        size = "matched" if METHODS[method].proxy["kind"] == "none" else size
        return Job(data, method, TUNING_SEED, rate, rounds, "validation", partition, size, scale=self.scale)

    def _job(self, data: str, method: str, seed: int, rate: float, rounds: int, partition: str, size: str) -> Job:
        size = "matched" if METHODS[method].proxy["kind"] == "none" else size
        return Job(data, method, seed, rate, rounds, "test", partition, size, scale=self.scale)

    def _of(self, jobs: Iterable[Job]) -> list[Mapping[str, Any]]:
        jobs = list(jobs)
        if missing := tuple(job for job in jobs if job.key not in self.results):
            raise MissingRuns(missing)
        return [self.results[job.key] for job in jobs]

    def _stored(self, name: str, methods: tuple[str, ...], choose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        settings = [asdict(METHODS[method]) for method in methods]
        key = f"{name} [{digest([asdict(self.scale), asdict(self.subject), settings])}]"
        if key in (stored := kept(self.ledger)):
            return cast("dict[str, Any]", stored[key])
        return cast("dict[str, Any]", measured(self.ledger, key, choose))


def _before_the_last_fifth(curve: Mapping[str, float], rounds: int) -> int:
    """The last evaluated round that is not in the last fifth."""
    return max(int(number) for number in curve if int(number) <= rounds - rounds / 5)


def pending(protocols: Mapping[str, Protocol], cells: Iterable[Cell]) -> Iterator[Job]:
    """Runs that are missing and can be made now, those that other runs wait for first.

    Args:
        protocols: by the title of their subject.
        cells: in the order in which tables are wanted.
    """
    seen: set[str] = set()
    for cell in cells:
        protocol = protocols[subject_of(cell.data).title]
        try:
            jobs: tuple[Job, ...] = (protocol.job(cell),)
        except MissingRuns as wanted:
            jobs = wanted.jobs
        for job in jobs:
            if job.key not in protocol.results and job.key not in seen:
                seen.add(job.key)
                yield job
