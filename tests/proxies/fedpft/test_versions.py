"""What a client gets of a proxy that was realigned since it took part."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from fedfm.models.backbones import Backbone
from fedfm.models.families import Block, blocks
from fedfm.params import Params, digest
from fedfm.proxies.base import ModelVersion, StaleProxyError
from fedfm.proxies.fedpft.construct import make_proxy, own_parameters
from fedfm.proxies.fedpft.versions import (
    NeuronCopy,
    changes_since,
    first_version,
    last_touched,
    neurons_touched,
    next_version,
    outputs_touched,
)
from fedfm.proxies.ffn import neuron_tensors, neurons
from tests.models.cases import load

PATHS = {"tiny-bert": "encoder.layer.1", "tiny-gpt2": "h.1", "tiny-llama": "layers.1"}


def held(model: str) -> tuple[NeuronCopy, list[Block]]:
    backbone = load(model, "text")
    kept = {PATHS[model]: torch.arange(0, 32, 4)}
    proxy: Backbone = make_proxy(backbone, kept)
    compressed = [block for block in blocks(proxy.model, proxy.family) if block.path in kept]
    own = {name: tensor.detach() for name, tensor in own_parameters(proxy, kept).items()}
    return NeuronCopy(proxy, own, blocks=compressed), compressed


def moved(version: ModelVersion, chosen: Tensor, compressed: list[Block], step: float) -> ModelVersion:
    """The version after an alignment that adds ``step`` to the chosen neurons and to all that no neuron owns."""
    own: Params = {name: tensor + step for name, tensor in version.own.items()}
    for block in compressed:
        for tensor in neuron_tensors(block):
            name = f"{block.path}.{tensor.name}"
            own[name] = version.own[name] + step * tensor.mask(version.own[name], chosen)
    return next_version(version, own, neurons_touched(own, compressed, {block.path: chosen for block in compressed}))


@pytest.fixture(params=list(PATHS))
def proxies(request: pytest.FixtureRequest) -> tuple[NeuronCopy, list[Block], list[ModelVersion]]:
    client, compressed = held(request.param)
    first = first_version({name: tensor.clone() for name, tensor in client.own.items()}, compressed)
    chosen = torch.zeros(8, dtype=torch.bool)
    second = moved(first, chosen.index_fill(0, torch.tensor([1, 4]), True), compressed, 1.0)
    third = moved(second, chosen.index_fill(0, torch.tensor([4, 5, 6]), True), compressed, 0.5)
    return client, compressed, [first, second, third]


@pytest.mark.parametrize("since", [0, 1])
def test_what_a_client_missed_makes_its_proxy_the_latest(proxies, since: int) -> None:
    client, compressed, versions = proxies
    client.download(versions[since])
    client.receive(changes_since(versions[2], since, compressed), since=since, number=2)
    assert digest(dict(client.own)) == digest(versions[2].own)
    assert client.number == 2


def test_only_neurons_that_changed_since_travel(proxies) -> None:
    _, (block,), versions = proxies
    assert changes_since(versions[2], 2, [block]) == {}
    first = f"{block.path}.{neuron_tensors(block)[0].name}.neurons"
    assert changes_since(versions[2], 0, [block])[first].tolist() == [1, 4, 5, 6]
    changes = changes_since(versions[2], 1, [block])
    assert changes[first].tolist() == [4, 5, 6]
    assert last_touched(versions[2], [block])[block.path].nonzero().flatten().tolist() == [4, 5, 6]
    output = next(tensor for name, tensor in changes.items() if block.stack.ffn.output in name and tensor.dim() == 2)
    assert sorted(output.shape) == [3, 16]
    assert neurons(block) == 8


def test_after_a_refit_only_output_matrices_and_biases_travel(proxies) -> None:
    client, (block,), versions = proxies
    own = dict(versions[1].own)
    touched = outputs_touched([block])
    for name in touched:
        own[name] = own[name] + 1
    refitted = next_version(versions[1], own, touched)
    output = f"{block.path}.{block.stack.ffn.output}"
    assert {name for name in changes_since(refitted, 1, [block]) if not name.startswith(output)} == set()
    for since in (0, 1):
        client.download(versions[since])
        client.receive(changes_since(refitted, since, [block]), since=since, number=2)
        assert digest(dict(client.own)) == digest(own)


def test_changes_since_long_ago_also_serve_a_client_that_is_less_behind(proxies) -> None:
    client, compressed, versions = proxies
    client.download(versions[1])
    client.receive(changes_since(versions[2], 0, compressed), since=0, number=2)
    assert digest(dict(client.own)) == digest(versions[2].own)


def test_a_client_that_is_further_behind_is_told_so_and_left_as_it_was(proxies) -> None:
    client, compressed, versions = proxies
    with pytest.raises(StaleProxyError, match="holds version 0 of the proxy, and the message leads from 1 to 2"):
        client.receive(changes_since(versions[2], 1, compressed), since=1, number=2)
    assert digest(dict(client.own)) == digest(versions[0].own)
    assert client.number == 0


def test_a_client_that_is_ahead_is_refused(proxies) -> None:
    client, compressed, versions = proxies
    client.download(versions[2])
    with pytest.raises(StaleProxyError, match="holds version 2"):
        client.receive(changes_since(versions[1], 0, compressed), since=0, number=1)


def test_changes_of_another_proxy_are_refused(proxies) -> None:
    client, compressed, versions = proxies
    changes = changes_since(versions[2], 0, compressed)
    changes.pop(next(iter(changes)))
    with pytest.raises(StaleProxyError, match="another proxy"):
        client.receive(changes, since=0, number=2)
    assert digest(dict(client.own)) == digest(versions[0].own)


@pytest.mark.parametrize(
    ("tensor", "value", "said"),
    [
        ("neurons", torch.tensor([1, 4, 5, 8], dtype=torch.int32), "names neurons that are not among its 8"),
        ("neurons", torch.tensor([-1, 4, 5, 6], dtype=torch.int32), "names neurons that are not among its 8"),
        ("neurons", torch.tensor([1, 4, 4, 6], dtype=torch.int32), "ascending order, each once"),
        ("neurons", torch.tensor([1, 5, 4, 6], dtype=torch.int32), "ascending order, each once"),
        ("neurons", torch.tensor([[1, 4, 5, 6]], dtype=torch.int32), r"of shape \[1, 4\], not a list"),
        ("neurons", torch.tensor([1.0, 4.0, 5.0, 6.0]), "is torch.float32 of shape"),
        ("neurons", torch.tensor([1, 4, 5], dtype=torch.int32), r"has shape \[.*4.*\], not \[.*3.*\]"),
        ("first", torch.zeros(3, 5), r"has shape \[3, 5\], not"),
        ("first", torch.tensor(0.0), r"has shape \[\], not"),
        ("first", "double", "is torch.float64, not torch.float32"),
    ],
    ids=str,
)
def test_changes_that_do_not_fit_are_refused_before_anything_is_written(
    proxies, tensor: str, value: Tensor | str, said: str
) -> None:
    client, compressed, versions = proxies
    changes = changes_since(versions[2], 0, compressed)
    own = next(iter(client.own))
    name = f"{own}.neurons" if tensor == "neurons" else own
    changes[name] = changes[name].double() if isinstance(value, str) else value
    with pytest.raises(StaleProxyError, match=f"another proxy than the one that the client holds: .*{said}"):
        client.receive(changes, since=0, number=2)
    assert digest(dict(client.own)) == digest(versions[0].own)
    assert client.number == 0


def test_a_version_is_not_changed_by_the_next(proxies) -> None:
    _, compressed, versions = proxies
    before = dataclasses.replace(versions[0], changed={path: t.clone() for path, t in versions[0].changed.items()})
    next_version(versions[0], versions[1].own, outputs_touched(compressed))
    assert all(torch.equal(versions[0].changed[path], before.changed[path]) for path in before.changed)
