"""What a language model writes before round 1 and after the last: the content of ``samples.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedfm.data.conversations.questions import Question
from fedfm.server.experiment.build import Experiment
from fedfm.server.runs.inference import generator_of
from fedfm.tasks.answers import score_answers


def write_before(experiment: Experiment) -> list[str]:
    """Answers to the first test examples with the backbone's present weights and the tunable's initial values.

    Args:
        experiment: the run; its tunable is overwritten.
    """
    experiment.plug_in(experiment.start)
    return _answers(experiment)


def samples(experiment: Experiment, before: Sequence[str]) -> dict[str, Any]:
    """Scores and rows, with the tunable's present values as those after the last round.

    Args:
        experiment: the run.
        before: from `write_before`.

    Returns:
        ``initial`` and ``final`` (metric → value; empty where the data has no answers) and ``rows``: ``row``,
        ``prompt``, ``answer``, ``before`` and ``after`` of each example.
    """
    asked, source, after = _asked(experiment), experiment.data.test_source, _answers(experiment)
    answers = [question.answer for question in asked]
    known = [place for place, answer in enumerate(answers) if answer is not None]
    expected = [str(answers[place]) for place in known]
    rows = [
        {
            "row": source.row_number(place),
            "prompt": asked[place].text,
            "answer": answers[place],
            "before": before[place],
            "after": after[place],
        }
        for place in range(len(asked))
    ]
    scored = {
        name: score_answers([written[place] for place in known], expected) if known else {}
        for name, written in (("initial", before), ("final", after))
    }
    return {**scored, "rows": rows}


def _asked(experiment: Experiment) -> list[Question]:
    """The first test examples as questions."""
    source, recipe = experiment.data.test_source, experiment.recipe
    first = source.select(range(min(recipe.evaluate.generate.examples, len(source))))
    return experiment.data.task.questions(first, recipe.data)


def _answers(experiment: Experiment) -> list[str]:
    return generator_of(experiment.evaluator, experiment.recipe).answers(_asked(experiment))
