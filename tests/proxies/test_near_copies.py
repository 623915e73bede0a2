"""What a proxy gives away: counted by hand, block by block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from fedfm.proxies.fedpft.construct import compressed_blocks, make_proxy, own_parameters
from fedfm.proxies.ffn import neurons, output_bias, vectors
from fedfm.proxies.near_copies import disclosed, near_copies
from tests.models.cases import CASES, Case, load
from tests.proxies.small_proxy import blocks_of

cases = pytest.mark.parametrize("case", CASES, ids="-".join)


@cases
def test_an_untouched_proxy_gives_away_all_that_was_not_cut(case: Case) -> None:
    backbone = load(*case)
    kept = {block.path: torch.arange(1, neurons(block), 3) for block in compressed_blocks(backbone, [0])}
    proxy = make_proxy(backbone, kept)
    found = near_copies(backbone, proxy, kept)
    sizes = [
        [sum(p.numel() for p in block.module.parameters()) for block in blocks_of(model)] for model in (backbone, proxy)
    ]
    assert list(found) == [block.path for block in blocks_of(backbone)]
    assert list(found.values()) == pytest.approx([own / whole for whole, own in zip(*sizes, strict=True)])
    assert disclosed(backbone, found) == pytest.approx(sum(sizes[1]) / sum(sizes[0]))


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-llama"])
@torch.no_grad()
def test_neurons_that_moved_far_do_not_count_and_those_that_moved_little_do(name: str) -> None:
    backbone = load(name, "text")
    paths = [block.path for block in blocks_of(backbone)]
    kept = {paths[1]: torch.arange(8)}
    proxy = make_proxy(backbone, kept)
    whole = near_copies(backbone, proxy, kept)
    *inputs, output = vectors(blocks_of(proxy)[1])
    for rows in inputs:
        rows[2:5] *= 3  # another length, the same direction
        rows[5] += 1e-4 * rows[5].norm() / rows.shape[1] ** 0.5
        rows[7] = -rows[7]
    output.normal_(generator=torch.Generator().manual_seed(0))
    found = near_copies(backbone, proxy, kept)
    block = blocks_of(backbone)[1]
    size = sum(parameter.numel() for parameter in block.module.parameters())
    lost = output.numel() + len(inputs) * inputs[0].shape[1]
    assert found[paths[0]] == whole[paths[0]] == 1
    assert found[paths[1]] == pytest.approx(whole[paths[1]] - lost / size)


@torch.no_grad()
def test_vectors_count_whole_and_tunables_do_not() -> None:
    backbone = load("tiny-bert", "text")
    kept = {"encoder.layer.1": torch.tensor([3, 30])}
    proxy = make_proxy(backbone, kept)
    whole = near_copies(backbone, proxy, kept)["encoder.layer.1"]
    for parameter in blocks_of(backbone)[1].module.parameters():
        if parameter.dim() == 1:
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    again = make_proxy(backbone, kept)
    own = own_parameters(again, kept)
    name = output_bias(blocks_of(again)[1])
    own[f"encoder.layer.1.{name}"][0] += 100
    for model in (again.model, backbone.model):
        get_peft_model(model, LoraConfig(r=2, target_modules=["query", "intermediate.dense"]))
    size = sum(p.numel() for p in blocks_of(load("tiny-bert", "text"))[1].module.parameters())
    assert near_copies(backbone, again, kept)["encoder.layer.1"] == pytest.approx(whole - 16 / size)


def test_blocks_that_a_proxy_lacks_are_not_given_away() -> None:
    backbone = load("tiny-bert", "text")
    proxy = make_proxy(backbone, {})
    layers: Any = proxy.model.base_model.encoder.layer
    del layers[0]
    found = near_copies(backbone, proxy, {}, {"encoder.layer.0": "encoder.layer.1"})
    assert found == {"encoder.layer.0": 0, "encoder.layer.1": 1}
    assert near_copies(backbone, proxy, {})["encoder.layer.0"] < 1
