"""Random-k: positions that a round shares, sums of encoded updates, and a mean without bias."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from fedfm.params import Params
from fedfm.randomness import numpy_generator
from fedfm.spec import TensorSpec, spec_of
from fedfm.updates import MessageKey, UpdatePath
from fedfm.updates.stages import RandomK
from fedfm.views import narrow, narrow_spec

ANY = numpy_generator(0, "test")


def arrived(stage: RandomK, params: Params, key: MessageKey) -> Params:
    path, specs = UpdatePath((stage,)), {"tunable": spec_of(params)}
    sent, _ = path.encode({"tunable": params}, {}, key)
    return dict(path.decode(sent, specs, key)["tunable"])


def positions(key: MessageKey, values: int = 1000) -> list[int]:
    found = arrived(RandomK(share=0.05), {"w": torch.ones(values)}, key)["w"]
    return [int(place) for place in found.nonzero()]


def test_all_clients_of_a_round_send_the_same_positions_and_each_round_has_others() -> None:
    first = positions(MessageKey(0, 1, "a"))
    assert len(first) == 50
    assert positions(MessageKey(0, 1, "b")) == first
    assert positions(MessageKey(0, 2, "a")) != first
    assert positions(MessageKey(1, 1, "a")) != first


def test_every_position_is_drawn_equally_often() -> None:
    counts = torch.zeros(40)
    for number in range(1, 501):
        counts[positions(MessageKey(0, number), 40)] += 1
    assert counts.sum() == 500 * 2
    assert (counts - 25).abs().max() < 5 * 25**0.5


def test_only_values_travel() -> None:
    spec = {"w": TensorSpec((40, 5)), "steps": TensorSpec((), torch.int64)}
    sizes = {name.rpartition(".")[2]: tensor.numel for name, tensor in RandomK(share=0.1).spec(spec).items()}
    assert sizes == {"values": 20, "steps": 1}


@pytest.mark.parametrize("scale", [False, True])
def test_the_sum_of_encoded_updates_decodes_to_the_sum_of_decoded_ones(scale: bool) -> None:
    torch.manual_seed(0)
    stage, seeds = RandomK(share=0.2, scale=scale, error_feedback=False), range(3)
    updates = [{"a": torch.randn(30).double(), "b": torch.randn(4, 5).double()} for _ in seeds]
    bound = stage.in_round(11)
    encoded = [
        bound.encode(update, {}, numpy_generator(seed, "test"))[0] for seed, update in zip(seeds, updates, strict=True)
    ]
    total = {name: sum(part[name] for part in encoded) for name in encoded[0]}
    found = bound.decode(total, spec_of(updates[0]))
    for name in found:
        expected = sum(bound.decode(part, spec_of(updates[0]))[name] for part in encoded)
        torch.testing.assert_close(found[name], expected)
    assert stage.linear


def test_scaled_the_mean_over_rounds_is_the_update() -> None:
    update = {"w": torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0], dtype=torch.float64)}
    stage, rounds = RandomK(share=0.4, scale=True, error_feedback=False), 2000
    mean = sum(arrived(stage, update, MessageKey(0, number))["w"] for number in range(rounds)) / rounds
    # A value x arrives as 2.5·x with probability 0.4: its standard deviation is |x|·√1.5.
    assert ((mean - update["w"]).abs() <= 4 * update["w"].abs() * 1.5**0.5 / rounds**0.5).all()


def test_clients_with_the_same_part_share_positions_too() -> None:
    params, slices = {"w": torch.arange(1.0, 41.0).view(8, 5)}, {"w": (slice(4),)}
    path, key = UpdatePath((RandomK(share=0.2, error_feedback=False),)), MessageKey(0, 1, "a")
    held = narrow(params, slices)
    specs = {"tunable": narrow_spec(spec_of(params), slices)}
    sent, _ = path.encode({"tunable": held}, {}, key, slices)
    found = path.decode(sent, specs, MessageKey(0, 1, "b"))["tunable"]["w"]
    assert found.count_nonzero() == 4
    assert torch.equal(found, held["w"].where(found != 0, 0))


def test_the_residual_and_a_scale_are_not_combined() -> None:
    with pytest.raises(ValidationError, match="would grow without bound"):
        RandomK(scale=True)


def test_without_a_round_there_are_no_positions() -> None:
    with pytest.raises(ValueError, match="those of a round"):
        RandomK(error_feedback=False).encode({"w": torch.ones(3)}, {}, ANY)
