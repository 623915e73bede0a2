"""How predictions become one, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from scipy.special import log_softmax, softmax

from fedfm.aggregation import Contribution
from fedfm.protocols.combinations import COMBINATIONS, WEIGHTS, Consensus, PredictionAverage, Sharpened

LOGITS = {"a": [[2.0, 0.0, -2.0], [1.0, 1.0, 1.0]], "b": [[0.0, 4.0, -1.0], [6.0, 0.0, 0.0]]}
OF = {"a": Contribution("a", 10, 1, 1, 0), "b": Contribution("b", 30, 1, 1, 0)}


def combined(kind: str, weights: str = "uniform", **settings: float) -> torch.Tensor:
    consensus = Consensus(COMBINATIONS[kind](**settings), WEIGHTS[weights])
    for client, logits in LOGITS.items():
        consensus.add(torch.tensor(logits), OF[client])
    found = consensus.logits()
    assert found is not None
    return found


def test_what_is_averaged() -> None:
    torch.testing.assert_close(combined("logits"), torch.tensor([[1.0, 2.0, -1.5], [3.5, 0.5, 0.5]]))
    mean = (softmax(LOGITS["a"], -1) + softmax(LOGITS["b"], -1)) / 2
    probabilities = combined("probabilities").softmax(-1)
    torch.testing.assert_close(probabilities, torch.from_numpy(mean).float())
    sharp = torch.from_numpy(softmax(mean / 0.1, -1)).float()
    torch.testing.assert_close(combined("sharpened").softmax(-1), sharp)


def test_sharpening_lowers_the_entropy_and_keeps_the_first_choice() -> None:
    def entropy(logits: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Categorical(logits=logits).entropy()

    mean, sharp = combined("probabilities"), combined("sharpened")
    assert (entropy(sharp) < entropy(mean)).all()
    assert torch.equal(sharp.argmax(-1), mean.argmax(-1))


def test_weights() -> None:
    examples = (10 * torch.tensor(LOGITS["a"]) + 30 * torch.tensor(LOGITS["b"])) / 40
    torch.testing.assert_close(combined("logits", "examples"), examples)
    decided = combined("logits", "variance")
    torch.testing.assert_close(decided[1], torch.tensor(LOGITS["b"][1]))  # `a` does not prefer any class there
    shares = torch.tensor([8 / 3, 14 / 3])  # variances of the first row: 8/3, and (1 + 9 + 4) / 3
    expected = (shares[0] * torch.tensor(LOGITS["a"][0]) + shares[1] * torch.tensor(LOGITS["b"][0])) / shares.sum()
    torch.testing.assert_close(decided[0], expected)


@pytest.mark.parametrize("combination", [kind() for kind in COMBINATIONS.values()], ids=list(COMBINATIONS))
def test_equal_clients_and_extremes(combination: PredictionAverage) -> None:
    consensus = Consensus(combination, WEIGHTS["variance"])
    assert consensus.logits() is None
    for client in "ab":
        consensus.add(torch.tensor([[3e4, 0.0, -3e4], [0.0, 0.0, 0.0]]), OF[client])
    found = consensus.logits()
    assert found is not None
    assert found.isfinite().all()
    assert found[0].argmax() == 0
    assert found[1].softmax(-1).sum().item() == pytest.approx(1.0)


def test_one_client_s_probabilities_are_its_own() -> None:
    consensus = Consensus(COMBINATIONS["probabilities"](), WEIGHTS["uniform"])
    consensus.add(torch.tensor(LOGITS["a"]), OF["a"])
    torch.testing.assert_close(consensus.logits(), torch.from_numpy(log_softmax(LOGITS["a"], -1)).float())


def test_a_teacher_has_its_share_of_what_is_averaged() -> None:
    consensus = Consensus(Sharpened(temperature=0.5), WEIGHTS["uniform"])
    consensus.add(torch.tensor(LOGITS["a"]), OF["a"])
    found = consensus.logits(torch.tensor(LOGITS["b"]), 0.25)
    expected = (0.75 * softmax(LOGITS["a"], -1) + 0.25 * softmax(LOGITS["b"], -1)) / 0.5
    torch.testing.assert_close(found, torch.from_numpy(expected).float())
