"""Area under the curve against scikit-learn, intervals that cover, true positives by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedfm.audit.base import Audited, AuditedLosses, NotMeasuredError
from fedfm.audit.exposure import by_chance, exposures
from fedfm.audit.figures import area, area_with_interval, true_positives
from fedfm.audit.membership import Membership


def test_the_area_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    members, others = generator.integers(0, 9, 40), generator.integers(0, 7, 30)  # with ties
    truth = np.repeat([1, 0], [40, 30])
    assert area(members, others) == pytest.approx(roc_auc_score(truth, np.concatenate([members, others])))


def test_the_interval_covers_the_area() -> None:
    generator = np.random.default_rng(1)
    found = [
        area_with_interval(generator.normal(1, 1, 60), generator.normal(0, 1, 60), generator)["interval"]
        for _ in range(20)
    ]
    truth = 0.7602  # Φ(1/√2)
    assert sum(low <= truth <= high for low, high in found) >= 16


def test_true_positives_by_hand() -> None:
    others = np.arange(100.0)
    found = true_positives(np.array([98.5, 99.5, 98.0, 3.0]), others, 0.01)  # one other may exceed the threshold, 98
    assert found is not None
    assert found["rate"] == 0.5
    assert true_positives(np.ones(4), others, 0.001) is None


def test_exposure_by_hand() -> None:
    others = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(exposures(np.array([4.0, 2.5, 0.0, 3.0]), others), [2.0, 1.0, 0.0, 1.0])
    assert by_chance(3) == pytest.approx(2 - np.log2([1, 2, 3, 4]).mean())


def _run(members: int, others: int) -> Audited:
    """Members of two clients, of which the run has lowered the loss of `a` alone."""
    clients = np.array((["a"] * (members // 2)) + ["b"] * (members - members // 2), dtype=object)
    start = np.linspace(1, 2, members)
    final = start - np.where(clients == "a", 0.5, 0.0) - np.linspace(0, 0.01, members)
    rest = np.linspace(1, 2, others)
    none = np.full(others, "", dtype=object)
    return Audited(
        AuditedLosses(start, final, clients),
        AuditedLosses(rest, rest - np.linspace(0, 0.01, others), none),
        canaries=None,
        promise=None,
        proxy=None,
        victim="none here",
        seed=0,
    )


def test_membership_finds_the_client_whose_loss_has_fallen() -> None:
    found = Membership().measure(_run(40, 40))
    assert found["clients"]["worst"]["client"] == "a"
    assert found["clients"]["auc"] == {"a": 1.0, "b": pytest.approx(0.74, abs=0.03)}
    assert found["reference"]["auc"] > found["loss"]["auc"]


def test_too_few_examples_are_said() -> None:
    with pytest.raises(NotMeasuredError, match="40 members and 3 other examples are too few"):
        Membership().measure(_run(40, 3))
