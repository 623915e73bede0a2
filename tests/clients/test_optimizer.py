"""The local optimiser: what it keeps from round to round, what Muon steps on, and its rate at each step of a run."""

from __future__ import annotations

import math

import pytest
import torch

from fedfm.algorithms import FedAvg
from fedfm.clients import ClientRound, LocalSettings, train_locally
from fedfm.clients.rules import Groups
from fedfm.clients.state import decode_state, encode_state, named, part
from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.tasks import TASKS
from fedfm.tasks.base import Batch
from tests.clients.test_recompute import batches
from tests.clients.test_stacked import attached

TASK = TASKS["causal-lm"]()
KEPT = {"optimizer": "adamw", "weight_decay": 0.1, "keep_optimizer": True}


def texts(count: int) -> list[Batch]:
    return [{**batch, "labels": batch["input_ids"]} for batch in batches("tiny-llama", count)]


def played(
    tunable: Tunable, start: Params, local: LocalSettings, rounds: list[list[Batch]], rates: list[float]
) -> tuple[Params, Groups]:
    """One client's rounds, one after the other; what it keeps passes through its bytes."""
    tunable.write(start)
    moments: Groups = {}
    for steps in rounds:
        at = ClientRound(tunable.read(), {}, {}, rates[0], moments=moments)
        result = train_locally(tunable, TASK, steps, local, FedAvg(), at, rates=rates[: len(steps)])
        rates = rates[len(steps) :]
        moments = part(decode_state(encode_state(named("optimizer", result.moments))), "optimizer")
    return tunable.read(), moments


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_rounds_with_kept_moments_are_one_long_round_bit_for_bit(optimizer: str) -> None:
    _, tunable = attached("tiny-llama", TASK, "full")
    start, steps, rates = tunable.read(), texts(4), [1e-2, 2e-2, 1e-2, 5e-3]
    kept = LocalSettings.model_validate({**KEPT, "optimizer": optimizer, "momentum": 0.9 * (optimizer == "sgd")})
    whole, _ = played(tunable, start, kept, [steps], rates)
    parts, moments = played(tunable, start, kept, [steps[:1], steps[1:]], rates)
    fresh, none = played(
        tunable, start, kept.model_copy(update={"keep_optimizer": False}), [steps[:1], steps[1:]], rates
    )
    assert all(parts[name].equal(whole[name]) for name in whole)
    assert any(not fresh[name].equal(whole[name]) for name in whole)
    assert none == {}
    if optimizer == "sgd":
        assert moments.keys() == {"momentum_buffer"}
    else:
        assert moments["step"]["model.embed_tokens.weight"] == len(steps)


def test_muon_steps_on_matrices_inside_blocks_only() -> None:
    _, tunable = attached("tiny-llama", TASK, "full")
    start, local = tunable.read(), LocalSettings.model_validate({**KEPT, "optimizer": "muon", "weight_decay": 0.0})
    after, moments = played(tunable, start, local, [texts(1)], [1e-2])
    matrices = {name for name in start if "_proj." in name}
    assert moments["momentum_buffer"].keys() == matrices
    assert moments["exp_avg"].keys() == start.keys() - matrices  # embeddings, which the head shares, and norms
    for name in matrices:
        move = (after[name] - start[name]) / 1e-2
        singular = torch.linalg.svdvals(move) / (0.2 * math.sqrt(max(move.shape)))
        assert singular.max() < 1.3  # five steps of Newton and Schulz end between about 0.7 and 1.2
        assert singular.median() > 0.5


def test_sgd_has_nothing_to_keep() -> None:
    with pytest.raises(ValueError, match="sgd without momentum has no moments"):
        LocalSettings(optimizer="sgd", keep_optimizer=True)
    with pytest.raises(ValueError, match="adamw has its own; use optimizer=sgd, or momentum=0"):
        LocalSettings(momentum=0.9)


def test_momentum_of_sgd_is_the_heavy_ball_of_dfedavgm() -> None:
    """y_{k+1} = y_k − η·g_k + β·(y_k − y_{k−1}), y_{−1} = y_0 (arXiv:2104.11375), by single steps."""
    _, tunable = attached("tiny-llama", TASK, "full")
    start, (first, second), eta, beta = tunable.read(), texts(2), 1e-2, 0.9
    plain = LocalSettings(optimizer="sgd", max_grad_norm=None)
    one, _ = played(tunable, start, plain, [[first]], [eta])
    alone, _ = played(tunable, one, plain, [[second]], [eta])
    both, _ = played(tunable, start, plain.model_copy(update={"momentum": beta}), [[first, second]], [eta, eta])
    for name, values in both.items():
        torch.testing.assert_close(values, alone[name] + beta * (one[name] - start[name]), rtol=1e-5, atol=1e-7)


def test_a_rate_by_steps_warms_up_and_falls_over_the_whole_run() -> None:
    local = LocalSettings(
        learning_rate=1.0, lr_scheduler_type="cosine", lr_scheduler_interval="step", warmup_ratio=0.25
    )
    rates = [rate for number in range(1, 5) for rate in local.step_rates(number, 4, 2) or []]
    falling = [(1 + math.cos(math.pi * done / 6)) / 2 for done in range(6)]
    assert rates == pytest.approx([0.5, 1.0, *falling])
    assert LocalSettings().step_rates(1, 4, 2) is None
    whole = local.model_copy(update={"lr_scheduler_interval": "round"})
    assert [whole.learning_rate_at(number, 4) for number in range(1, 5)] == pytest.approx([1, 1, 0.75, 0.25])
