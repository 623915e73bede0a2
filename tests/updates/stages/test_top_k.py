"""Top-k against hand-computed numbers, its limit, and a run without error feedback."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm.aggregation import Contribution, Mean
from fedfm.params import Params, digest
from fedfm.randomness import numpy_generator
from fedfm.spec import Spec, TensorSpec, spec_of
from fedfm.updates import MessageKey, UpdatePath
from fedfm.updates.stages import TopK

ANY = numpy_generator(0, "test")
TWO = {"b": torch.tensor([[1.0, -5.0]]), "a": torch.tensor([2.0, 0.5, -3.0])}
"""In sorted order: 2, 0.5, −3, 1, −5."""


def sent(stage: TopK, params: Params, own: Params | None = None) -> tuple[Params, Params]:
    return stage.encode(params, stage.start(spec_of(params)) if own is None else own, ANY)


def named(params: Params) -> dict[str, torch.Tensor]:
    """By the last part of their names."""
    return {name.rpartition(".")[2]: tensor for name, tensor in params.items()}


def test_the_largest_of_all_tensors_together_by_hand() -> None:
    found, kept = sent(TopK(share=0.4), TWO)
    assert named(found)["indices"].tolist() == [2, 4]
    assert named(found)["values"].tolist() == [-3.0, -5.0]
    assert named(found)["indices"].dtype == torch.int32
    assert {name: tensor.tolist() for name, tensor in kept.items()} == {"a": [2.0, 0.5, 0.0], "b": [[1.0, 0.0]]}
    arrived = TopK(share=0.4).decode(found, spec_of(TWO))
    assert {name: tensor.tolist() for name, tensor in arrived.items()} == {"a": [0.0, 0.0, -3.0], "b": [[0.0, -5.0]]}


def test_what_was_left_out_is_sent_later() -> None:
    stage = TopK(share=0.4)
    _, kept = sent(stage, TWO)
    found, kept = sent(stage, {name: torch.zeros_like(tensor) for name, tensor in TWO.items()}, kept)
    assert named(found)["indices"].tolist() == [0, 3]
    assert named(found)["values"].tolist() == [2.0, 1.0]
    assert {name: tensor.tolist() for name, tensor in kept.items()} == {"a": [0.0, 0.5, 0.0], "b": [[0.0, 0.0]]}


def test_among_equals_the_lower_index_is_sent() -> None:
    found, _ = sent(TopK(share=0.5), {"w": torch.tensor([1.0, -2.0, 2.0, 2.0, -2.0, 2.0])})
    assert named(found)["indices"].tolist() == [1, 2, 3]
    found, _ = sent(TopK(share=0.5), {"w": torch.tensor([1.0, -2.0, 2.0, 3.0, -2.0, 2.0])})
    assert named(found)["indices"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("error_feedback", [True, False])
def test_with_a_share_of_one_every_bit_arrives(error_feedback: bool) -> None:
    stage = TopK(share=1.0, error_feedback=error_feedback)
    params = {"w": torch.tensor([0.0, -0.0, 1e-45, -3.0]), "half": torch.tensor([0.1, -0.0], dtype=torch.bfloat16)}
    own = stage.start(spec_of(params))
    for _ in range(2):
        found, own = sent(stage, params, own)
        assert digest(stage.decode(found, spec_of(params))) == digest(params)


@settings(max_examples=50)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30), st.floats(0.01, 1), st.integers(1, 4))
def test_what_arrives_and_what_is_kept_add_up(values: list[float], share: float, rounds: int) -> None:
    stage, update = TopK(share=share), {"w": torch.tensor(values, dtype=torch.float64)}
    own, arrived = stage.start(spec_of(update)), torch.zeros(len(values), dtype=torch.float64)
    for _ in range(rounds):
        found, own = sent(stage, update, own)
        arrived += stage.decode(found, spec_of(update))["w"]
    torch.testing.assert_close(arrived + own["w"], rounds * update["w"])


def test_at_least_one_value_is_sent_and_names_hold_the_specs_digest() -> None:
    spec = {"w": TensorSpec((40,))}
    names = list(TopK(share=0.001).spec(spec))
    assert [tensor.shape for tensor in TopK(share=0.001).spec(spec).values()] == [(1,), (1,)]
    assert all(name.startswith("top-k.") and len(name.split(".")[1]) == 16 for name in names)
    assert names != list(TopK(share=0.001).spec({"v": TensorSpec((40,))}))


def test_positions_are_wider_where_32_bits_do_not_reach() -> None:
    def dtype(values: int) -> torch.dtype:
        return named(TopK(share=1e-9).spec({"w": TensorSpec((values,))}))["indices"].dtype

    assert dtype(2**31) == torch.int32
    assert dtype(2**31 + 1) == torch.int64


@pytest.mark.parametrize("indices", [[0, 5], [-1, 2], [3, 3], [3, 1], [-(2**31), 2**31 - 1]])
def test_impossible_positions_are_refused(indices: list[int]) -> None:
    stage = TopK(share=0.4)
    found, _ = sent(stage, TWO)
    name = next(name for name in found if name.endswith("indices"))
    with pytest.raises(ValueError, match="not in ascending order from 0 to 4"):
        stage.decode({**found, name: torch.tensor(indices, dtype=torch.int32)}, spec_of(TWO))


def error(path: UpdatePath, seed: int, rounds: int) -> tuple[float, Params]:
    """Relative distance from the optimum, and the end, of two clients who agree in most coordinates.

    In a tenth of them their gradients are large and cancel: these are all that is sent where nothing is remembered.
    """
    common, conflict = torch.randn(200, generator=torch.Generator().manual_seed(seed)), torch.zeros(200)
    conflict[:20] = 3
    w: Params = {"w": torch.zeros(200)}
    spec: Spec = spec_of(w)
    kept = [path.start({"tunable": spec}) for _ in range(2)]
    for number in range(rounds):
        fold = Mean().start(spec, w)
        for client, centre in enumerate((common + conflict, common - conflict)):
            update = {"tunable": {"w": 0.01 * (centre - w["w"])}}
            key = MessageKey(0, number, str(client))
            groups, kept[client] = path.encode(update, kept[client], key)
            arrived = path.decode(groups, {"tunable": spec}, key)["tunable"]
            fold.add(arrived, Contribution(str(client), 1, 1), {"w": ()})
        w = {"w": w["w"] + fold.result()["w"]}
    return float((w["w"] - common).norm() / common.norm()), w


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_at_one_percent_the_optimum_is_reached_with_error_feedback_only(seed: int) -> None:
    with_it, without = (
        error(UpdatePath((TopK(share=0.01, error_feedback=feedback),)), seed, 250)[0] for feedback in (True, False)
    )
    assert with_it < 0.4
    assert without > 0.9


def test_a_share_of_one_is_fedavg_bit_for_bit() -> None:
    assert digest(error(UpdatePath((TopK(share=1.0),)), 0, 10)[1]) == digest(error(UpdatePath(), 0, 10)[1])
