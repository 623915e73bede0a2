"""What every stage of the update path must do, over the registry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from fedfm.params import Params, digest
from fedfm.randomness import numpy_generator
from fedfm.spec import count, problem, spec_of
from fedfm.updates.stages import STAGES, AnyStage, Stage
from fedfm.wire import from_bytes, to_bytes

SHAPES: dict[str, tuple[int, ...]] = {
    "b.lora_A.weight": (3, 5),
    "a.lora_B.weight": (7, 3),
    "scalar": (),
    "none": (0, 4),
}
every_stage = pytest.mark.parametrize("kind", STAGES)


def generator() -> np.random.Generator:
    return numpy_generator(0, "test")


def tensors(dtype: torch.dtype = torch.float32) -> Params:
    torch.manual_seed(0)
    return {name: torch.randn(shape).to(dtype) for name, shape in SHAPES.items()}


def made(kind: str, **settings: object) -> Stage:
    """A stage in some round."""
    return TypeAdapter(AnyStage).validate_python({"kind": kind, **settings}).in_round(7)  # type: ignore[no-any-return]


def through(stage: Stage, params: Params) -> Params:
    """What arrives: encoded, to bytes and back, decoded."""
    spec = spec_of(params)
    sent, _ = stage.encode(params, stage.start(spec), generator())
    assert problem(sent, stage.spec(spec)) is None
    arrived, _ = from_bytes(to_bytes(sent))
    assert problem(arrived, stage.spec(spec)) is None
    return stage.decode(arrived, spec)


@every_stage
def test_registry_and_schema_agree(kind: str) -> None:
    assert type(TypeAdapter(AnyStage).validate_python({"kind": kind})) is STAGES[kind]
    with pytest.raises(ValidationError):
        STAGES[kind](kind=kind, nonsense=1)


@every_stage
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_arrives_has_the_spec_of_what_was_sent(kind: str, dtype: torch.dtype) -> None:
    params = tensors(dtype)
    before = digest(params)
    found = through(made(kind), params)
    assert problem(found, spec_of(params)) is None
    assert digest(params) == before


@every_stage
def test_integers_pass_unchanged(kind: str) -> None:
    params = tensors() | {"steps": torch.tensor([1, 2**40]), "mask": torch.tensor([True, False])}
    found = through(made(kind), params)
    assert torch.equal(found["steps"], params["steps"])
    assert torch.equal(found["mask"], params["mask"])


@every_stage
def test_zero_stays_zero(kind: str) -> None:
    found = through(made(kind), {name: torch.zeros(shape) for name, shape in SHAPES.items()})
    assert all(not tensor.any() for tensor in found.values())


@every_stage
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_a_number_is_never_hidden(kind: str, value: float) -> None:
    params = tensors()
    params["b.lora_A.weight"][1, 2] = value
    try:
        found = through(made(kind), params)
    except ValueError:
        return  # refused
    assert not all(tensor.isfinite().all() for tensor in found.values())


@every_stage
def test_the_same_generator_gives_the_same_bytes(kind: str) -> None:
    stage, params = made(kind), tensors()
    own = stage.start(spec_of(params))
    one, two = (to_bytes(stage.encode(params, dict(own), generator())[0]) for _ in range(2))
    assert one == two


@every_stage
def test_state_has_names_and_shapes_of_the_tensors(kind: str) -> None:
    stage, params = made(kind), tensors()
    own = stage.start(spec_of(params))
    assert bool(own) == stage.stateful
    _, kept = stage.encode(params, own, generator())
    assert spec_of(kept) == spec_of(own)


@settings(max_examples=40)
@given(
    st.dictionaries(st.text("ab.", min_size=1, max_size=6), st.lists(st.integers(0, 4), max_size=3), max_size=4),
    st.sampled_from(
        [
            {"kind": "clip"},
            {"kind": "top-k", "share": 0.3},
            {"kind": "random-k", "share": 0.3},
            {"kind": "power-sgd", "rank": 1},
            {"kind": "quantize", "block": 8},
            {"kind": "quantize", "block": 8, "bits": 4},
            {"kind": "nf4", "block": 8},
            {"kind": "sign", "block": 8},
        ]
    ),
    st.integers(0, 2**32 - 1),
)
def test_any_tensors_go_through(shapes: dict[str, list[int]], stage: dict[str, str], seed: int) -> None:
    torch.manual_seed(seed)
    params: dict[str, Tensor] = {name: torch.randn(shape) for name, shape in shapes.items()}
    found = through(made(**stage), params)
    assert problem(found, spec_of(params)) is None
    assert count(spec_of(found)) == count(spec_of(params))
