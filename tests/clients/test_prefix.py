"""Frozen first blocks are computed once for each example, and training is the same as without the cache."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm.clients import Worker
from fedfm.models.stacked import FrozenPrefix
from fedfm.models.stacked.prefix import Shelf
from fedfm.params import Params, digest
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.updates import Failure, decode_update
from fedfm.wire import TUNABLE
from tests.asked import instruction, trained
from tests.small import small_recipe

LAST = r".*(layer|layers|h)\.1\..*(query|value|q_proj|v_proj|c_attn)"
UPPER = {"kind": "lora", "target_modules": LAST}
HEAD = {"kind": "head"}
LANGUAGE: dict[str, Any] = {
    "task": {"kind": "causal-lm"},
    "model": {"path": "builtin:tiny-llama"},
    "tune": {"kind": "lora", "target_modules": LAST},
}


def built(folder: Path, **changes: Any) -> Experiment:
    local = {"batch_size": 4, "epochs": 2, "optimizer": "sgd", "learning_rate": 0.1}
    return build_experiment(load_recipe(small_recipe(folder, **{"local": local} | changes)))


def updates(worker: Worker, params: Params, *, number: int = 1) -> dict[str, Params]:
    message = instruction(params, number=number, lr=0.1)
    answers = {}
    for client, answer in trained(worker, dict.fromkeys(["0", "1", "2"], message)).items():
        assert not isinstance(answer, Failure), answer.details
        answers[client] = dict(decode_update(answer).groups[TUNABLE])
    return answers


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"tune": HEAD}, 2),
        ({"tune": UPPER}, 1),
        ({"tune": UPPER, "model": {"path": "builtin:tiny-gpt2"}}, 1),
        (LANGUAGE, 1),
        ({"tune": {"kind": "lora"}}, None),
        ({"tune": {"kind": "prompt"}}, None),
        ({"tune": {"kind": "prefix"}}, None),
        ({"tune": HEAD, "model": {"path": "builtin:tiny-t5"}}, None),
    ],
)
def test_it_is_used_where_first_blocks_are_frozen(tmp_path: Path, changes: dict[str, Any], start: int | None) -> None:
    experiment = built(tmp_path, **changes)
    worker = experiment.worker
    assert worker.stacking is not None
    if start is None:
        assert worker.stacking.prefix is None
        return
    assert worker.stacking.prefix is not None
    assert worker.stacking.prefix.start == start
    assert f"the first {start} blocks once an example" in experiment.training
    plain = dataclasses.replace(worker, stacking=None)
    for number in (1, 2):  # first computed, then kept
        kept, every_time = (
            updates(worker, experiment.start, number=number),
            updates(plain, experiment.start, number=number),
        )
        for client, params in every_time.items():
            for name, tensor in params.items():
                torch.testing.assert_close(kept[client][name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tune", [HEAD, UPPER])
def test_it_serves_clients_that_are_filled_up(tmp_path: Path, tune: dict[str, Any]) -> None:
    experiment = built(tmp_path, tune=tune)
    worker = experiment.worker
    assert worker.stacking is not None
    filled = dataclasses.replace(worker, stacking=dataclasses.replace(worker.stacking, uniform=True))
    expected, found = (updates(each, experiment.start) for each in (worker, filled))
    for client, params in expected.items():
        for name, tensor in params.items():
            torch.testing.assert_close(found[client][name], tensor, rtol=1e-4, atol=1e-6)


def test_masks_and_proxies_make_inputs_and_blocks_change(tmp_path: Path) -> None:
    masked = built(tmp_path, task={"kind": "masked-lm"}, tune={"kind": "lora", "target_modules": LAST})
    assert masked.worker.stacking is not None
    assert masked.worker.stacking.prefix is None


def test_what_is_kept_does_not_depend_on_what_came_before(tmp_path: Path) -> None:
    experiment = built(tmp_path, tune=HEAD)
    worker, start = experiment.worker, experiment.start
    first = updates(worker, start, number=2)
    fresh = built(tmp_path, tune=HEAD)
    updates(fresh.worker, start, number=1)
    again = updates(fresh.worker, start, number=2)
    assert {client: digest(params) for client, params in again.items()} == {
        client: digest(params) for client, params in first.items()
    }


def test_no_block_runs_once_all_is_kept(tmp_path: Path) -> None:
    experiment = built(tmp_path, tune=HEAD)
    updates(experiment.worker, experiment.start)
    ran = []
    for block in experiment.tunable.base_model.base_model.encoder.layer:
        block.attention.register_forward_hook(lambda *_: ran.append(1))
    updates(experiment.worker, experiment.start, number=2)
    assert ran == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_does_not_fit_in_memory_goes_to_a_file_and_then_nowhere(dtype: torch.dtype) -> None:
    size = 12 * dtype.itemsize
    shelf = Shelf(memory=size, disk=2 * size)
    tensors = [torch.arange(12, dtype=dtype).view(3, 4) + number for number in range(4)]
    for number, tensor in enumerate(tensors):
        shelf.put(number, tensor)
    assert [number in shelf for number in range(4)] == [True, True, True, False]
    for number in (2, 0, 1):
        assert torch.equal(shelf.get(number), tensors[number])
        assert shelf.get(number).dtype == dtype


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_writes_to_a_file_of_its_own() -> None:
    shelf = Shelf(memory=0)
    shelf.put(0, torch.zeros(4))
    child = os.fork()
    if child == 0:  # leaves without pytest's own ending
        shelf.put(1, torch.ones(4))
        os._exit(int(not (torch.equal(shelf.get(0), torch.zeros(4)) and torch.equal(shelf.get(1), torch.ones(4)))))
    shelf.put(1, torch.full((4,), 2.0))
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(shelf.get(0), torch.zeros(4))
    assert torch.equal(shelf.get(1), torch.full((4,), 2.0))


def test_without_room_it_is_computed_each_time(tmp_path: Path) -> None:
    experiment = built(tmp_path, tune=HEAD)
    worker = experiment.worker
    assert worker.stacking is not None
    expected = updates(worker, experiment.start)
    nothing = FrozenPrefix(worker.stacking.blocks, worker.tunable, 2, Shelf(memory=0, disk=0))
    without = dataclasses.replace(worker, stacking=dataclasses.replace(worker.stacking, prefix=nothing))
    for _ in range(2):
        found = updates(without, experiment.start)
        assert all(digest(found[client]) == digest(expected[client]) for client in expected)
