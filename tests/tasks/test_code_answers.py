"""pass@k against its definition, and programs from answers."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from fedfm.tasks.code_answers import pass_at_k, program_of


def test_it_is_the_share_of_choices_with_a_right_sample() -> None:
    for n, c, k in ((5, 0, 2), (5, 2, 1), (6, 2, 3), (7, 6, 2), (4, 4, 4)):
        right = [number < c for number in range(n)]
        chosen = [any(choice) for choice in combinations(right, k)]
        assert pass_at_k(n, c, k) == pytest.approx(np.mean(chosen))
    assert pass_at_k(200, 3, 100) == pytest.approx(1 - np.prod(1 - 100 / np.arange(198, 201)))  # the paper's product


@pytest.mark.parametrize("numbers", [(2, 1, 3), (2, 3, 1), (2, 1, 0), (2, -1, 1)])
def test_numbers_that_do_not_fit_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="right samples among"):
        pass_at_k(*numbers)


def test_programs() -> None:
    head = "def f(x):\n"
    continued = program_of(head, "    return x\n\nprint(f(1))\nclass A: pass", "T", "f", continues=True)
    assert continued == head + "    return x\n\nT\ncheck(f)\n"
    fenced = "Sure:\n```python\ndef f(x):\n    return x\n# more\n```\nDone. ```\nx\n```"
    assert program_of("Write f.", fenced, "T", None, continues=True) == "def f(x):\n    return x\n# more\n\nT\n"
    assert program_of("Write f.", "```py\ncut off", "T", None, continues=False) == "cut off\nT\n"
    assert program_of("Write f.", "def f(): 0", "T", None, continues=False) == "def f(): 0\nT\n"
