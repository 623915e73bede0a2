"""Recomputation in the backward pass gives the same training, bit for bit, with less memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedfm.algorithms import FedAvg
from fedfm.clients import ClientRound, LocalSettings, train_locally
from fedfm.clients.recompute import recomputing
from fedfm.errors import RecipeError
from fedfm.models.builtin import RANDOM_MODELS
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import TUNABLES
from fedfm.params import Params
from fedfm.randomness import torch_seed
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import build_experiment
from fedfm.tasks import TASKS, Task
from fedfm.tasks.base import Batch
from tests.models.cases import load, small
from tests.small import small_recipe

TINY = [name for name in RANDOM_MODELS if name.startswith("tiny-") and name != "tiny-clip"]


def attached(name: str, kind: str = "lora") -> tuple[Tunable, Task]:
    short = "text" if RANDOM_MODELS[name].template is not None else "image"
    task = TASKS[f"{short}-classification"]()
    return small(kind).attach(load(name, short), task_type=task.peft_type, seed=0), task


def batches(name: str, count: int = 3) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        labels = torch.randint(2, (4,), generator=generator)
        if RANDOM_MODELS[name].template is None:
            yield {"pixel_values": torch.randn(4, 3, 8, 8, generator=generator), "labels": labels}
            continue
        ids = torch.randint(10, 200, (4, 7), generator=generator)
        ids[:, -1] = RANDOM_MODELS[name].config().eos_token_id  # by which T5 classifies
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def trained(name: str, recompute: str, kind: str = "lora") -> Params:
    tunable, task = attached(name, kind)
    local = LocalSettings(recompute=recompute)
    at = ClientRound(tunable.read(), {}, {}, lr=0.01)
    with torch_seed(0, "dropout"):  # as a worker has it; masks are drawn
        train_locally(tunable, task, batches(name), local, FedAvg(), at)
    return tunable.read()


@contextmanager
def counting_kept() -> Iterator[set[tuple[int, int]]]:
    """Collects (address, bytes) of what a forward pass keeps for the backward pass."""
    kept: set[tuple[int, int]] = set()

    def keep(tensor: Tensor) -> Tensor:
        kept.add((tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


@pytest.mark.parametrize("recompute", ["attention", "blocks"])
@pytest.mark.parametrize("name", TINY)
def test_training_is_the_same_bit_for_bit(name: str, recompute: str) -> None:
    plain, saving = trained(name, "none"), trained(name, recompute)
    assert plain.keys() == saving.keys()
    assert all(torch.equal(plain[key], saving[key]) for key in plain)


@pytest.mark.parametrize("kind", [kind for kind in TUNABLES if kind not in ("lora", "prefix", "attention-adapter")])
def test_every_tunable_can_be_trained_so(kind: str) -> None:
    plain, saving = trained("tiny-bert", "none", kind), trained("tiny-bert", "attention", kind)
    assert all(torch.equal(plain[key], saving[key]) for key in plain)


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-llama", "tiny-vit"])
def test_less_is_kept_for_the_backward_pass(name: str) -> None:
    tunable, _ = attached(name)
    weights = {parameter.untyped_storage().data_ptr() for parameter in tunable.model.parameters()}
    (batch,) = batches(name, 1)
    sizes = []
    for what in ("none", "attention", "blocks"):
        with recomputing(tunable, what), counting_kept() as kept:  # type: ignore[arg-type]
            inputs = {key: tensor for key, tensor in batch.items() if key != "labels"}
            logits = tunable.model(**inputs).logits
        sizes.append(sum(size for address, size in kept if address not in weights))
        del logits
    assert sizes[0] > sizes[1] > sizes[2]


def test_the_model_is_left_as_it_was() -> None:
    tunable, _ = attached("tiny-llama")
    caching = tunable.base_model.config.use_cache
    with pytest.raises(ZeroDivisionError), recomputing(tunable, "attention"):
        raise ZeroDivisionError
    assert tunable.base_model.config.use_cache == caching
    assert not any("forward" in vars(module) for module in tunable.base_model.modules())


def test_such_clients_do_not_share_passes(tmp_path: Path) -> None:
    experiment = build_experiment(load_recipe(small_recipe(tmp_path, local={"recompute": "attention"})))
    assert experiment.worker.stacking is None
    assert "little memory" in experiment.training


def test_a_prefix_lies_in_the_cache_and_is_refused(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, tune={"kind": "prefix"}, local={"recompute": "blocks"})
    with pytest.raises(RecipeError, match="prefix lies in the cache"):
        load_recipe(recipe)
