"""Programs from what a model writes, and pass@k.

Chen et al., Evaluating Large Language Models Trained on Code, arXiv:2107.03374, §2.1 (eq. 1) and §2.3.
"""

from __future__ import annotations

import math
import re

_FENCED = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_NEXT = re.compile(r"\n(?:class |def |#|if |print)")
"""Where a continued function is over: the stop sequences of §2.3."""


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the chance that one of ``k`` samples is right: 1 − C(n−c, k) / C(n, k).

    Args:
        samples: n, at least k.
        passed: c of them.
        k: from 1.

    Raises:
        ValueError: the numbers do not fit.
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} of {passed} right samples among {samples}")
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)


def program_of(prompt: str, answer: str, test: str, entry: str | None, *, continues: bool) -> str:
    """The program that tells whether an answer is right: it comes to its end where it is.

    Args:
        prompt: of the problem.
        answer: as written. If it has a block in ``` fences, that is the code; the rest is prose.
        test: code that fails where the answer is wrong.
        entry: name of the function that ``check`` of the test gets, as in HumanEval; None: the test calls it itself.
        continues: whether the answer continues the prompt; it is then cut where the function is over.
    """
    fenced = _FENCED.search(answer)
    code = fenced[1] if fenced else prompt + _NEXT.split(answer)[0] if continues else answer
    return "\n".join([code, test, *([f"check({entry})"] if entry else []), ""])
