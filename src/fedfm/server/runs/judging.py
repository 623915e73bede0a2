"""Pairwise comparison of written answers by a judge: a program of the user, such as one that asks a language model.

Zheng et al., Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena, arXiv:2306.05685, §3.4: judges prefer a position,
so each pair is judged in both; an answer wins where it is preferred in both, and otherwise the pair is a tie.

The program is named on the command line only. A recipe cannot name one: recipes come from others, and must not run
commands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedfm.errors import DataError, RecipeError
from fedfm.printable import line, quoted
from fedfm.progress import steps
from fedfm.records import jsonl, shapes
from fedfm.records.folder import RunFolder
from fedfm.report.page import write_report
from fedfm.server.runs.bounded_process import ProgramEnd, play

TIMEOUT_S = 60.0
"""Seconds for one verdict."""
MOST_BYTES = 65536
"""A judge may print."""
PATIENCE = 3
"""Pairs without a verdict, of the first ones, after which the judge is taken to be broken."""

BEFORE = "the model before round 1"

Verdict = Literal["own", "other", "tie"]
"""`own` is the run's answer after the last round."""


class JudgeError(Exception):
    """A judge gave no verdict; the text says why."""


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, and that of the data, where it has one."""

    row: int
    prompt: str
    own: str
    other: str
    answer: str | None


@dataclass(frozen=True)
class Judged:
    """The verdicts of a judge on a pair.

    Attributes:
        pair: of answers.
        first: with the run's own answer as `a`.
        second: with it as `b`.
        failed: why there is no verdict; None if there is one.
    """

    pair: Pair
    first: Verdict | None = None
    second: Verdict | None = None
    failed: str | None = None

    @property
    def identical(self) -> bool:
        """Whether the answers are the same, so that the judge was not asked."""
        return self.pair.own == self.pair.other

    @property
    def score(self) -> float:
        """1 for a win of the run's own answer, ½ for a tie, 0 for a loss."""
        return 0.5 if self.first != self.second or self.first == "tie" else float(self.first == "own")


def judge(
    run: Path | str, command: Sequence[str], *, against: Path | str | None = None, timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """Compares what a run's model wrote with what it wrote before round 1, or with another run, by a judge.

    Args:
        run: the run's folder; its recipe had ``evaluate.generate.examples``.
        command: the judge, started for each verdict. It gets ``{"prompt", "a", "b", "answer"}`` on standard input and
            prints ``a``, ``b`` or ``tie``. No shell reads the command.
        against: another run with the same prompts.
        timeout_s: for a verdict.

    Returns:
        The figures of `figures_of`, and ``against`` and ``verdicts`` (a row for each pair): the content of
        ``judge.json``, which is written, as is the report.

    Raises:
        RecipeError: the run has no written answers, the prompts of the runs differ, or the judge cannot be started.
        DataError: the judge gave no verdict on the first pairs.
    """
    folder = RunFolder.open(run)
    pairs = _pairs(folder, None if against is None else RunFolder.open(against))
    judged: list[Judged] = []
    for pair in steps(pairs, "judging", len(pairs)):
        judged.append(_judged(pair, command, timeout_s))
        _refuse_broken(judged, len(pairs))
    found = figures_of(judged) | {
        "against": BEFORE if against is None else str(against),
        "verdicts": [
            {"row": one.pair.row, "first": one.first, "second": one.second, "failed": one.failed} for one in judged
        ],
    }
    folder.write_json(folder.judge, found)
    write_report(folder.path)
    return found


def figures_of(judged: Sequence[Judged]) -> dict[str, Any]:
    """What verdicts come to.

    Returns:
        ``pairs``; ``failed``, those without a verdict, which no other figure counts; ``identical``, those with equal
        answers, which are ties; ``wins``, ``ties``, ``losses``; ``win_rate``, (wins + ½ ties) / their number, and its
        ``standard_error``. Of pairs that the judge was asked for: ``agreement``, the share with the same verdict in
        both positions; ``prefers_first``, the share of preferences for the answer that came first; and
        ``prefers_longer``, for the one with more characters. A rate without pairs is None.
    """
    counted = [one for one in judged if one.failed is None]
    asked = [one for one in counted if not one.identical]
    scores = [one.score for one in counted]
    rate = _share(scores)
    spread = math.fsum((score - rate) ** 2 for score in scores) if rate is not None else 0.0
    lengths = [(one, len(one.pair.own) - len(one.pair.other)) for one in asked]
    return {
        "pairs": len(judged),
        "failed": len(judged) - len(counted),
        "identical": len(counted) - len(asked),
        "wins": scores.count(1.0),
        "ties": scores.count(0.5),
        "losses": scores.count(0.0),
        "win_rate": rate,
        "standard_error": math.sqrt(spread / (len(scores) - 1) / len(scores)) if len(scores) > 1 else None,
        "agreement": _share([one.first == one.second for one in asked]),
        "prefers_first": _share(
            [verdict == first for one in asked for verdict, first in _preferences(one, "own", "other")]
        ),
        "prefers_longer": _share(
            [
                verdict == ("own" if more > 0 else "other")
                for one, more in lengths
                if more
                for verdict, _ in _preferences(one, "own", "other")
            ]
        ),
    }


def _preferences(one: Judged, *firsts: Verdict) -> list[tuple[Verdict | None, Verdict]]:
    """The verdicts that prefer an answer, each with the one that came first."""
    both = zip((one.first, one.second), firsts, strict=True)
    return [(verdict, first) for verdict, first in both if verdict != "tie"]


def _share(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _pairs(folder: RunFolder, against: RunFolder | None) -> list[Pair]:
    own = _answers(folder)
    others = [(row["prompt"], row["before"]) for row in own]
    if against is not None:
        others = [(row["prompt"], row["after"]) for row in _answers(against)]
    if [row["prompt"] for row in own] != [prompt for prompt, _ in others]:
        raise RecipeError("the runs answered different prompts; both need the same test examples", where="--against")
    return [
        Pair(row["row"], row["prompt"], row["after"], other, row["answer"])
        for row, (_, other) in zip(own, others, strict=True)
    ]


def _answers(folder: RunFolder) -> list[Mapping[str, Any]]:
    found = jsonl.read(folder.samples, shapes.SAMPLES)["rows"] if folder.samples.is_file() else []
    if not found:
        reason = f"{folder.path} has no written answers: run a recipe with evaluate.generate.examples above 0"
        raise RecipeError(reason, where="evaluate.generate.examples")
    return list(found)


def _judged(pair: Pair, command: Sequence[str], timeout_s: float) -> Judged:
    if pair.own == pair.other:
        return Judged(pair, "tie", "tie")
    try:
        first = _verdict(command, pair, pair.own, pair.other, timeout_s)
        second = _verdict(command, pair, pair.other, pair.own, timeout_s)
    except JudgeError as error:
        return Judged(pair, failed=str(error))
    meaning: dict[str, tuple[Verdict, Verdict]] = {"a": ("own", "other"), "b": ("other", "own"), "tie": ("tie", "tie")}
    return Judged(pair, meaning[first][0], meaning[second][1])


def _verdict(command: Sequence[str], pair: Pair, a: str, b: str, timeout_s: float) -> str:
    """``a``, ``b`` or ``tie``.

    Raises:
        JudgeError: the judge failed, took too long, or printed something else.
        RecipeError: it cannot be started.
    """
    asked = json.dumps({"prompt": pair.prompt, "a": a, "b": b, "answer": pair.answer}).encode() + b"\n"
    try:
        ended = play(command, asked, timeout_s=timeout_s, most_bytes=MOST_BYTES)
    except OSError as error:
        raise RecipeError(f"{quoted(command[0])} cannot be started: {error.strerror}", where="--command") from error
    if reason := _fault(ended):
        raise JudgeError(reason)
    said = ended.stdout.decode("utf-8", "replace").strip()
    if said.lower() not in ("a", "b", "tie"):
        raise JudgeError(f"the judge printed {quoted(said)}, not a, b or tie" if said else "the judge printed nothing")
    return said.lower()


def _fault(ended: ProgramEnd) -> str | None:
    if ended.limit is not None:
        return f"the judge {ended.limit}"
    if ended.code:
        last = ended.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        how = f"with exit code {ended.code}" if ended.code > 0 else f"by signal {-ended.code}"
        return f"the judge ended {how}" + (f": {line(last[0], most=200)}" if last else "")
    return None


def _refuse_broken(judged: Sequence[Judged], pairs: int) -> None:
    """Ends a comparison whose judge has not given a single verdict on the first pairs."""
    asked = [one for one in judged if not one.identical]
    if all(one.failed for one in asked) and len(asked) and (len(asked) == PATIENCE or len(judged) == pairs):
        raise DataError(f"no verdict on the first {len(asked)} pairs: {asked[0].failed}", where="--command")
