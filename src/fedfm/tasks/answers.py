"""Scores of written answers against the data's: ROUGE-L, exact match, F1 of tokens, and the same last number.

Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004, §3. Rajpurkar et al., SQuAD, arXiv:1606.05250, §6.1
(exact match and F1). Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv:2110.14168 (final numbers).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

METRICS: Mapping[str, bool] = MappingProxyType({"rouge_l": True, "exact_match": True, "token_f1": True})
"""Name → whether higher is better; all are from 0 to 1."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")


def score_answers(written: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Means of `METRICS` over answers; ``number_match`` too where every expected answer has a number."""
    pairs = list(zip(written, expected, strict=True))
    scores = {
        "rouge_l": _mean([rouge_l(own, other) for own, other in pairs]),
        "exact_match": _mean([float(normalised(own) == normalised(other)) for own, other in pairs]),
        "token_f1": _mean([token_f1(own, other) for own, other in pairs]),
    }
    numbers = [last_number(other) for other in expected]
    if None not in numbers:
        found = [float(last_number(own) == number) for own, number in zip(written, numbers, strict=True)]
        scores["number_match"] = _mean(found)
    return scores


def rouge_l(written: str, expected: str) -> float:
    """F1 of the longest common subsequence of words, in lower case and without punctuation; 0 if a text has none."""
    own, other = (re.findall(r"[^\W_]+", text.lower()) for text in (written, expected))
    return _f1(_common(own, other), len(own), len(other))


def token_f1(written: str, expected: str) -> float:
    """F1 of the words that two `normalised` texts share, each as often as both have it; 1 if both have none."""
    own, other = normalised(written).split(), normalised(expected).split()
    if not own or not other:
        return float(own == other)
    return _f1((Counter(own) & Counter(other)).total(), len(own), len(other))


def normalised(text: str) -> str:
    """In lower case, without ASCII punctuation, English articles and repeated spaces, as SQuAD compares answers."""
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def last_number(text: str) -> float | None:
    """The number after the last ``####``, as GSM8K marks an answer, or else the last number; None if there is none."""
    found = _NUMBER.findall(text.rpartition("####")[2])
    return float(found[-1].replace(",", "")) if found else None


def _common(own: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in own:
        diagonal = 0
        for place, another in enumerate(other, start=1):
            diagonal, row[place] = row[place], diagonal + 1 if word == another else max(row[place], row[place - 1])
    return row[-1]


def _f1(shared: int, own: int, other: int) -> float:
    return 2 * shared / (own + other) if shared else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
