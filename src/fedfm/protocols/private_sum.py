"""The sum of one group of a round's answers, under the run's promise of privacy where it makes one."""

from __future__ import annotations

from collections.abc import Iterable

from fedfm.params import Params
from fedfm.privacy import Release
from fedfm.protocols.io import ClientUpdate


def private_sum(
    release: Release | None, answers: Iterable[ClientUpdate], group: str, *, by_examples: bool = False
) -> tuple[Params | None, Params]:
    """Σ of a group over answers, float64, and what a release keeps for the next round.

    Under a promise it is a mean with noise, which a constant factor separates from the sum; every client weighs the
    same, and without any answer it is noise alone, so that nobody learns that no one took part.

    Args:
        release: as `fedfm.protocols.IO.release` gives it; None: nothing is promised.
        answers: of the round.
        group: what is added up.
        by_examples: whether a client weighs by its examples where nothing is promised.

    Returns:
        The sum, None where nothing is promised and there is no answer; and the kept tensors.
    """
    if release is not None:
        for answer in answers:
            release.add(answer.groups)
        groups, kept = release.result()
        return {name: tensor.double() for name, tensor in groups[group].items()}, kept
    total: Params = {}
    for answer in answers:
        weight = answer.contribution.copies * (answer.contribution.examples if by_examples else 1)
        for name, tensor in answer.groups[group].items():
            total[name] = total.get(name, 0) + weight * tensor.double()
    return total or None, {}
