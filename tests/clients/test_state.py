"""A client's state as bytes."""

from __future__ import annotations

import pytest
import torch

from fedfm.clients.state import LostStateError, decode_state, encode_state, named, part
from fedfm.params import digest

STATE = {
    "algorithm/control": {"base_model.a.weight": torch.randn(2, 3), "b": torch.randn(())},
    "stage-0/tunable": {"b": torch.zeros(4, dtype=torch.bfloat16)},
    "view/tunable": {"classifier.bias": torch.tensor([1, 2])},
}


def test_what_goes_in_comes_out() -> None:
    found = decode_state(encode_state(STATE))
    assert {group: digest(params) for group, params in found.items()} == {
        group: digest(params) for group, params in STATE.items()
    }


def test_the_same_state_has_the_same_bytes() -> None:
    assert encode_state(STATE) == encode_state(dict(reversed(STATE.items())))


def test_what_is_read_can_be_written_to() -> None:
    content = encode_state(STATE)
    decode_state(content)["algorithm/control"]["b"].add_(1)
    assert content == encode_state(STATE)


def test_no_state_has_bytes_too() -> None:
    assert decode_state(encode_state({})) == {}


@pytest.mark.parametrize("cut", [0, 4, 60, -1])
def test_damaged_bytes_are_refused(cut: int) -> None:
    with pytest.raises(LostStateError, match="damaged"):
        decode_state(encode_state(STATE)[:cut])


def test_namespaces_are_parted_and_put_together() -> None:
    assert part(STATE, "algorithm") == {"control": STATE["algorithm/control"]}
    assert part(STATE, "stage") == {}
    assert named("view", part(STATE, "view")) == {"view/tunable": STATE["view/tunable"]}
