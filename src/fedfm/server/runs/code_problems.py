"""Code problems: a run's model writes answers, which are executed with the tests of the problems (pass@k)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.data.columns import text_column
from fedfm.data.conversations.questions import Question
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.sources import read_source
from fedfm.errors import DataError, RecipeError
from fedfm.progress import steps
from fedfm.server.runs import inference
from fedfm.server.runs.sandbox import Sandbox
from fedfm.tasks import code_answers

PROMPT, TEST, ENTRY = "prompt", "test", "entry_point"
"""Columns of problems; the last is optional, and HumanEval has it."""


@dataclass(frozen=True)
class CodeProblem:
    """A prompt, code that fails where an answer to it is wrong, and the function that ``check`` of it gets, if any."""

    row: int
    prompt: str
    test: str
    entry: str | None


def pass_at_k(
    run: Path | str,
    data: str,
    overrides: Sequence[str] = (),
    *,
    ks: Sequence[int] = (1,),
    samples: int | None = None,
    sandbox: Sandbox | None = None,
) -> dict[str, Any]:
    """Executes what a run's model writes for code problems, with their tests.

    Args:
        run: the run's folder; its model writes.
        data: problems, with columns ``prompt``, ``test`` and possibly ``entry_point``.
        overrides: ``evaluate.generate`` says how answers are written.
        ks: k of each pass@k.
        samples: answers to each problem, n; None: the largest k.
        sandbox: executes them; None: isolated, with the default limits.

    Returns:
        ``pass_at`` (k → mean over problems), ``problems``, ``samples`` (of each), and ``rows``: ``row``, ``passed``
        samples, and ``answers``, each with ``text`` and ``failure`` (None where it passed).

    Raises:
        RecipeError: the numbers do not fit, the samples would all be the same, the model does not write, or programs
            cannot be isolated here.
        DataError: the data cannot be read.
    """
    most = max(ks)
    count, sandbox = most if samples is None else samples, sandbox or Sandbox()
    if min(ks) < 1 or count < most:
        raise RecipeError(f"pass@{most} needs at least {most} samples, not {count}", where="--samples")
    sandbox.check()
    model = inference.open_model(run, overrides)
    if not model.evaluator.task.generates:
        raise RecipeError(f"a model of {model.recipe.task.kind} writes no answers", where="task.kind")
    if count > 1 and not model.recipe.evaluate.generate.temperature:
        reason = f"with 0, all {count} samples of a problem are the same: set it, such as 0.8"
        raise RecipeError(reason, where="evaluate.generate.temperature")
    problems = read_problems(data, allow_network=model.recipe.allow_network)
    questions = [Question.of(problem.prompt) for problem in problems for _ in range(count)]
    answers = inference.generator_of(model.evaluator, model.recipe).answers(questions)
    failures = []
    for place, answer in enumerate(steps(answers, "executing", len(answers))):
        problem, continues = problems[place // count], model.evaluator.task.continues
        failures.append(
            sandbox.failure(
                code_answers.program_of(problem.prompt, answer, problem.test, problem.entry, continues=continues)
            )
        )
    rows: list[dict[str, Any]] = []
    for place, problem in enumerate(problems):
        own = range(place * count, (place + 1) * count)
        written = [{"text": answers[number], "failure": failures[number]} for number in own]
        passed = sum(one["failure"] is None for one in written)
        rows.append({"row": problem.row, "passed": passed, "answers": written})
    rates = {k: [code_answers.pass_at_k(count, row["passed"], k) for row in rows] for k in sorted(set(ks))}
    return {
        "pass_at": {str(k): math.fsum(values) / len(values) for k, values in rates.items()},
        "problems": len(problems),
        "samples": count,
        "isolated": sandbox.isolated,
        "rows": rows,
    }


def read_problems(data: str, *, allow_network: bool = False) -> list[CodeProblem]:
    """The problems of a source.

    Raises:
        RecipeError: a column is missing.
        DataError: a file cannot be read, a value is missing, or an ``entry_point`` is no name.
    """
    columns = [
        RequestedColumn(name, "text", "DATA", required=required)
        for name, required in ((PROMPT, True), (TEST, True), (ENTRY, False))
    ]
    source = read_source(data, "test", where="DATA", columns=columns, allow_network=allow_network)
    entries: Sequence[str | None] = [None] * len(source)
    if ENTRY in source.table.column_names:
        entries = text_column(source, ENTRY, "DATA")
    found = []
    texts = zip(text_column(source, PROMPT, "DATA"), text_column(source, TEST, "DATA"), entries, strict=True)
    for place, (prompt, test, entry) in enumerate(texts):
        if entry is not None and not entry.isidentifier():
            raise DataError(f"{source.name}: {source.place(place)}: `{ENTRY}` is not the name of a function")
        found.append(CodeProblem(source.row_number(place), prompt, test, entry))
    return found
