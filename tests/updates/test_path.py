"""The update path: stages in order, their specs and state, and parts of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from fedfm.params import Params, digest
from fedfm.spec import Spec, spec_of
from fedfm.updates import MessageKey, UpdatePath
from fedfm.updates.stages import Clip, Quantize, Stage, TopK
from fedfm.views import narrow, narrow_spec

PARAMS = {"a": torch.tensor([[1.0, -2.0], [3.0, 4.0]]), "b": torch.tensor([0.5, -6.0, 7.0])}
SPECS = {"tunable": spec_of(PARAMS)}
KEY = MessageKey(0, 1, "c")


class Scale(Stage):
    """Adds a constant and counts what passed through; its names and order show."""

    kind: Literal["scale"] = "scale"
    by: float = 2.0

    linear: ClassVar[bool] = True

    def spec(self, spec: Spec) -> Spec:
        return {f"{name}*{self.by:g}": tensor for name, tensor in spec.items()}

    def encode(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        return {f"{name}*{self.by:g}": tensor * self.by + 1 for name, tensor in params.items()}, own

    def decode(self, params: Mapping[str, Tensor], spec: Spec) -> Params:
        return {name: (params[f"{name}*{self.by:g}"] - 1) / self.by for name in spec}

    def finish(self, aggregate: Params, cohort: int) -> Params:
        return {name: tensor * self.by + cohort for name, tensor in aggregate.items()}


def test_stages_encode_in_order_and_decode_in_reverse() -> None:
    path = UpdatePath((Scale(by=2.0), Scale(by=4.0)))
    sent, kept = path.encode({"tunable": PARAMS}, path.start(SPECS), KEY)
    assert sent["tunable"]["b*2*4"].tolist() == [(0.5 * 2 + 1) * 4 + 1, (-12 + 1) * 4 + 1, (14 + 1) * 4 + 1]
    assert spec_of(sent["tunable"]) == path.spec(SPECS)["tunable"]
    assert kept == {}
    assert digest(dict(path.decode(sent, SPECS, KEY)["tunable"])) == digest(PARAMS)


def test_the_aggregate_is_finished_in_reverse() -> None:
    path = UpdatePath((Scale(by=2.0), Scale(by=4.0)))
    found = path.finish({"tunable": {"w": torch.ones(1)}, "control": {"w": torch.ones(1)}}, 3)
    assert found["tunable"]["w"].item() == (1 * 4 + 3) * 2 + 3
    assert found["control"]["w"].item() == 1


def test_other_groups_pass_unchanged() -> None:
    path = UpdatePath((TopK(share=0.2), Quantize()))
    specs = {**SPECS, "control": spec_of(PARAMS)}
    sent, _ = path.encode({"tunable": PARAMS, "control": PARAMS}, path.start(specs), KEY)
    assert sent["control"] is PARAMS
    assert path.spec(specs)["control"] == specs["control"]
    assert path.decode(sent, specs, KEY)["control"] is PARAMS


def test_without_stages_nothing_changes() -> None:
    path = UpdatePath()
    sent, kept = path.encode({"tunable": PARAMS}, {}, KEY)
    assert sent["tunable"] is PARAMS
    assert (kept, path.start(SPECS), path.stateful) == ({}, {}, False)


def test_each_direction_has_its_stages() -> None:
    stages = [Clip(), Quantize(direction="both"), Quantize(direction="down", block=64)]
    assert UpdatePath.of(stages, "up").stages == (stages[0], stages[1])
    assert UpdatePath.of(stages, "down").stages == (stages[1], stages[2])


@pytest.mark.parametrize("error_feedback", [True, False])
def test_a_path_is_stateful_where_a_stage_is(error_feedback: bool) -> None:
    path = UpdatePath((Clip(), TopK(share=0.5, error_feedback=error_feedback)))
    assert path.stateful == error_feedback
    assert set(path.start(SPECS)) == ({"stage-1/tunable"} if error_feedback else set())


def test_random_choices_are_keyed_by_client_round_and_place() -> None:
    params = {"tunable": {"w": torch.randn(1000)}}

    def sent(key: MessageKey, path: UpdatePath) -> str:
        return digest({name: t for name, t in path.encode(params, {}, key)[0]["tunable"].items() if "values" in name})

    path = UpdatePath((Quantize(),))
    once = sent(KEY, path)
    assert sent(KEY, path) == once
    others = [MessageKey(1, 1, "c"), MessageKey(0, 2, "c"), MessageKey(0, 1, "d")]
    assert len({once, *(sent(key, path) for key in others), sent(KEY, UpdatePath((Clip(norm=1e9), Quantize())))}) == 5


def test_a_client_with_a_part_keeps_the_state_of_the_rest() -> None:
    path = UpdatePath((TopK(share=0.5),))
    slices = {"a": (slice(None), slice(1)), "b": (torch.tensor([0, 2]),)}  # 1, 3 of a; 0.5, 7 of b
    full = path.start(SPECS)
    full["stage-0/tunable"]["b"] = torch.tensor([0.0, 100.0, 0.0])
    held = {"tunable": narrow_spec(SPECS["tunable"], slices)}
    sent, kept = path.encode({"tunable": narrow(PARAMS, slices)}, full, KEY, slices)
    assert spec_of(sent["tunable"]) == path.spec(held)["tunable"]
    found = path.decode(sent, held, KEY)["tunable"]
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"a": [[0.0], [3.0]], "b": [0.0, 7.0]}
    residual = kept["stage-0/tunable"]
    assert residual["a"].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert residual["b"].tolist() == [0.5, 100.0, 0.0]
