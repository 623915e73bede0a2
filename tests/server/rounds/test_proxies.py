"""A federation whose clients hold a proxy: what each client gets and when, and what never leaves the server."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm.clients import Worker
from fedfm.errors import RecipeError, TooFewClientsError
from fedfm.params import Params, digest, tensor_digest
from fedfm.proxies.base import ModelVersion
from fedfm.proxies.fedpft.model import FedPFTModel
from fedfm.proxies.fedpft.pair import FedPFTPair
from fedfm.proxies.fedpft.versions import next_version
from fedfm.proxies.ffn import neuron_tensors
from fedfm.proxies.folder import base_parameters
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.runtimes.local import LocalRuntime
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.rounds.driver import Driver
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.state import RunState
from fedfm.server.runs.api import play_rounds
from fedfm.updates import Reply, Request, decode_instruction
from fedfm.updates.payload import PROXY
from fedfm.wire import from_bytes
from tests.small import small_recipe

PUBLIC = {"data": "builtin:pydoc", "limit": 24, "max_length": 24}
FEDPFT: dict[str, Any] = {
    "kind": "fedpft",
    "ffn_keep": 0.5,
    "keep_layers": [0],
    "distill": {"steps": 2, "batch_size": 4},
    "interval": 1,
    "align": {"steps": 2, "batch_size": 4},
    "probe": 4,
}


def build(folder: Path, proxy: dict[str, Any] = FEDPFT, **changes: Any) -> Experiment:
    federation = {"clients": 4, "per_round": 2, "rounds": 3}
    recipe = small_recipe(folder, **{"federation": federation, "public": PUBLIC, "proxy": proxy, **changes})
    return build_experiment(load_recipe(recipe))


def pair_of(experiment: Experiment) -> FedPFTPair:
    assert isinstance(experiment.client_model, FedPFTModel)
    return experiment.client_model.pair


def play(experiment: Experiment, folder: Path) -> tuple[Driver, RunState]:
    run = RunFolder.create(folder / "run")
    driver = Driver(experiment, LocalRuntime(experiment.worker), run, [], StopRequest())
    return driver, play_rounds(driver, driver.start())


def ledger(driver: Driver) -> list[dict[str, Any]]:
    return list(jsonl.records(driver.folder.wire))


def test_neurons_are_chosen_on_public_data_where_the_recipe_names_some(tmp_path: Path) -> None:
    cut = {"kind": "fedpft", "ffn_keep": 0.5, "keep_layers": [0], "closed_form": False, "interval": None}

    def kept(public: dict[str, Any] | None, **score: str) -> list[list[int]]:
        pair = pair_of(build(tmp_path, {**cut, **score}, public=public))
        return [neurons.tolist() for neurons in pair.kept.values()]

    assert kept(PUBLIC) == kept(PUBLIC, score="reconstruct") != kept(PUBLIC, score="concat-l2")
    assert kept(None) == kept(None, score="concat-l2")


def test_before_round_1_backbone_and_proxy_start_alike(tmp_path: Path) -> None:
    experiment = build(tmp_path, tune={"kind": "lora", "target_modules": "all"})
    experiment.plug_in(experiment.start)
    experiment.client_model.server_tunable.write(experiment.start)
    on_backbone, on_proxy = experiment.tunable.read(), experiment.client_model.server_tunable.read()
    assert on_backbone.keys() == on_proxy.keys()
    same = [name for name in on_proxy if on_proxy[name].shape == on_backbone[name].shape]
    assert all(torch.equal(on_proxy[name], on_backbone[name]) for name in same)
    smaller = {name.split(".layer.")[1][0] for name in on_proxy.keys() - set(same)}
    assert smaller == {"1"}  # the compressed layer's FFN


def test_a_client_downloads_the_proxy_once_and_then_gets_what_changed(tmp_path: Path) -> None:
    driver, state = play(build(tmp_path), tmp_path)
    versions: dict[str, int] = {}
    for line in ledger(driver):
        number, changed = line["round"] - 1, any(tensor["name"].startswith("proxy/") for tensor in line["tensors"])
        if line["kind"] == "download":
            assert not versions.keys() & set(line["clients"])
            versions |= dict.fromkeys(line["clients"], number)
        elif line["direction"] == "down":
            assert {versions[client] < number for client in line["clients"]} == {changed}
            versions |= dict.fromkeys(line["clients"], number)
    assert state.holders == versions
    assert state.proxy is not None
    assert state.proxy.number == 2  # after rounds 1 and 2, not after the last
    assert state.failed == state.refused == 0
    assert state.bytes_down == sum(
        line["bytes"] * len(line["clients"])
        for line in ledger(driver)
        if (line["kind"], line["direction"]) == ("message", "down")
    )


def test_clients_train_on_the_proxy_that_the_server_has(tmp_path: Path) -> None:
    experiment = build(tmp_path)
    _, state = play(experiment, tmp_path)
    assert state.proxy is not None
    assert experiment.worker is not None
    held = {name: tensor.detach() for name, tensor in experiment.worker.copy.own.items()}
    assert digest(held) == digest(state.proxy.own) == digest(pair_of(experiment).read())
    assert held.keys()
    assert all(held[name].data_ptr() != parameter.data_ptr() for name, parameter in pair_of(experiment).own.items())


def test_the_backbone_is_left_as_it_was(tmp_path: Path) -> None:
    experiment = build(tmp_path)
    before = digest(base_parameters(experiment.backbone.model))
    play(experiment, tmp_path)
    assert digest(base_parameters(experiment.backbone.model)) == before


@pytest.mark.parametrize("proxy", [FEDPFT, {**FEDPFT, "align": {**FEDPFT["align"], "data": "clients"}}])
def test_nothing_that_the_proxy_hides_crosses_the_wire(tmp_path: Path, proxy: dict[str, Any]) -> None:
    experiment = build(tmp_path, proxy)
    kept = pair_of(experiment).neurons
    hidden: set[str] = set()
    for block, _ in pair_of(experiment).compared:
        cut = torch.tensor(sorted(set(range(32)) - set(kept[block.path].tolist())))
        for tensor in neuron_tensors(block):
            weight = block.module.get_parameter(tensor.name).detach()
            if weight.dim() == 1:
                continue  # the biases of a random model are zeros, here and elsewhere
            hidden.add(tensor_digest(weight))
            hidden |= {tensor_digest(tensor.take(weight, cut[place : place + 1])) for place in range(len(cut))}
            hidden.add(tensor_digest(tensor.take(weight, cut)))
    driver, _ = play(experiment, tmp_path)
    sent = {tensor["digest"]: tensor["name"] for line in ledger(driver) for tensor in line["tensors"]}
    assert sent
    assert [name for digest, name in sent.items() if digest in hidden] == []
    assert any(line["kind"] == "download" for line in ledger(driver))


class Wire(LocalRuntime):
    """Keeps all that passes: the proxy as it was at each download, and every message in either direction."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment.worker)
        self.weights = experiment.client_model.weights
        self.downloads: list[Params] = []
        self.down: list[Params] = []
        self.up: list[Params] = []

    def share(self, clients: Any, version: ModelVersion) -> None:
        self.downloads.append({name: tensor.detach().clone() for name, tensor in self.weights.items()})
        super().share(clients, version)

    def submit(self, requests: Sequence[Request]) -> None:
        self.down += [dict(from_bytes(request.message)[0]) for request in requests]
        super().submit(requests)

    def next(self, timeout: float | None = None) -> Reply | None:
        if (reply := super().next()) is not None:
            assert isinstance(reply.content, bytes)
            self.up.append(dict(from_bytes(reply.content)[0]))
        return reply


def lines_of(params: Params) -> bytes:
    """Every line of every tensor along each of its axes: the rows of a matrix, then its columns."""
    lines = [tensor.movedim(axis, -1) for tensor in params.values() for axis in range(tensor.dim())]
    return b"|".join(line.contiguous().numpy().tobytes() for line in lines)


INPUTS_AND_OUTPUT = {  # each as the backbone stores it, with the axis that counts neurons
    "tiny-bert": ([("encoder.layer.1.intermediate.dense", 0)], ("encoder.layer.1.output.dense", 1)),
    "tiny-gpt2": ([("h.1.mlp.c_fc", 1)], ("h.1.mlp.c_proj", 0)),
    "tiny-llama": (
        [("layers.1.mlp.gate_proj", 0), ("layers.1.mlp.up_proj", 0)],
        ("layers.1.mlp.down_proj", 1),
    ),
}


@pytest.mark.parametrize("model", INPUTS_AND_OUTPUT)
def test_no_cut_neurons_vector_is_in_anything_that_passes(tmp_path: Path, model: str) -> None:
    """Not in what is downloaded, tuned, counted or realigned, be it as a row or as a column of something larger."""
    experiment = build(
        tmp_path,
        {**FEDPFT, "distill": None, "align": {**FEDPFT["align"], "data": "clients"}},
        model={"path": f"builtin:{model}"},
        tune={"kind": "lora", "target_modules": "all"},
        federation={"clients": 4, "per_round": 3, "rounds": 3},
    )
    base = pair_of(experiment).backbone.model.base_model

    def vectors(path: str, axis: int) -> list[bytes]:
        """A matrix's vector at each neuron."""
        weight = base.get_submodule(path).get_parameter("weight").detach()
        return [weight.select(axis, neuron).contiguous().numpy().tobytes() for neuron in range(32)]

    inputs, output = INPUTS_AND_OUTPUT[model]
    before = [vectors(*place) for place in (*inputs, output)]
    ((_, indices),) = pair_of(experiment).neurons.items()
    kept = set(indices.tolist())

    wire = Wire(experiment)
    driver = Driver(experiment, wire, RunFolder.create(tmp_path / "run"), [], StopRequest())
    state = play_rounds(driver, driver.start())
    assert state.proxy is not None
    assert state.proxy.number == 2
    assert any(name.startswith("proxy/") for params in wire.down for name in params)
    assert any(name.startswith("activity/") for params in wire.up for name in params)

    def found(passed: list[Params], known: list[bytes]) -> set[int]:
        sent = b"|".join(map(lines_of, passed))
        return {neuron for neuron, vector in enumerate(known) if vector in sent}

    passed = [*wire.downloads, *wire.down, *wire.up]
    *at_inputs, at_output = before
    for known in at_inputs:
        assert found(passed, known) == kept  # the vectors of the others are sent as they are, so the search finds them
        assert found(wire.downloads[:1], known) == kept
    assert found(passed, at_output) == set()  # refitted in closed form
    assert [vectors(*place) for place in (*inputs, output)] == before


def test_counts_from_clients_choose_the_same_neurons_in_any_order(tmp_path: Path) -> None:
    proxy = {**FEDPFT, "align": {**FEDPFT["align"], "data": "clients"}}
    experiment = build(tmp_path, proxy, federation={"clients": 4, "per_round": 4, "rounds": 2})
    driver, state = play(experiment, tmp_path)
    up = [line for line in ledger(driver) if line["direction"] == "up"]
    counted = {line["round"]: any("activity/" in tensor["name"] for tensor in line["tensors"]) for line in up}
    assert counted == {1: True, 2: True}  # after the last round too: the run may be extended
    assert state.proxy is not None
    assert state.proxy.number == 1

    turned = build(tmp_path, proxy, federation={"clients": 4, "per_round": 4, "rounds": 2})
    runtime = Backwards(turned.worker)
    again = Driver(turned, runtime, RunFolder.create(tmp_path / "backwards"), [], StopRequest())
    other = play_rounds(again, again.start())
    assert runtime.answered == [["3", "2", "1", "0"]] * 2
    assert other.proxy is not None
    assert digest(other.proxy.own) == digest(state.proxy.own)
    assert digest(other.proxy.changed) == digest(state.proxy.changed)
    assert all(0 < changed.sum() < len(changed) for changed in state.proxy.changed.values() if changed.dim())


class Backwards(LocalRuntime):
    """Trains the last client first, and lets it answer first."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.answered: list[list[str]] = []

    def submit(self, requests: Sequence[Request]) -> None:
        self.answered.append([])
        super().submit(requests[::-1])

    def next(self, timeout: float | None = None) -> Reply | None:
        if (reply := super().next()) is not None:
            self.answered[-1].append(reply.client)
        return reply


def test_a_resumed_worker_is_brought_to_the_version_that_its_clients_hold(tmp_path: Path) -> None:
    experiment = build(tmp_path)
    driver, state = play(experiment, tmp_path)
    fresh = build(tmp_path)
    again = Driver(fresh, LocalRuntime(fresh.worker), driver.folder, [], StopRequest())
    play_rounds(again, state)  # nothing is left to play, but the proxy is put in its place
    assert fresh.worker is not None
    assert state.proxy is not None
    assert fresh.worker.copy.number == state.proxy.number
    assert digest(dict(fresh.worker.copy.own)) == digest(state.proxy.own)


class Recording(LocalRuntime):
    """Keeps the messages that it carries."""

    messages: list[dict[str, bytes]] = []

    def submit(self, requests: Sequence[Request]) -> None:
        self.messages.append({request.client: request.message for request in requests})
        super().submit(requests)


def test_clients_at_one_version_share_a_message(tmp_path: Path) -> None:
    experiment = build(tmp_path, federation={"clients": 4, "per_round": 4, "rounds": 2})
    runtime = Recording(experiment.worker)
    runtime.messages.clear()
    driver = Driver(experiment, runtime, RunFolder.create(tmp_path / "run"), [], StopRequest())
    play_rounds(driver, driver.start())
    for messages in runtime.messages:
        assert len({id(message) for message in messages.values()}) == 1
    first, second = (decode_instruction(next(iter(messages.values()))) for messages in runtime.messages)
    assert first.facts.proxy_version == 0
    assert PROXY not in first.groups
    assert (second.facts.proxy_version, second.facts.proxy_since) == (1, 0)
    assert second.groups[PROXY]


def test_a_client_whose_proxy_is_too_old_fails_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = build(tmp_path)
    driver = Driver(experiment, LocalRuntime(experiment.worker), RunFolder.create(tmp_path / "run"), [], StopRequest())
    state = driver.start()
    assert state.proxy is not None
    assert experiment.worker is not None
    chosen = {path: torch.ones_like(changed, dtype=torch.bool) for path, changed in state.proxy.changed.items()}
    newer = next_version(next_version(state.proxy, state.proxy.own, chosen), state.proxy.own, chosen)
    believed = dataclasses.replace(state, proxy=newer, holders=dict.fromkeys("0123", 1))
    monkeypatch.setattr(LocalRuntime, "share", lambda self, clients, version: None)
    with pytest.raises(TooFewClientsError, match="holds version 0 of the proxy, and the message leads from 1 to 2"):
        play_rounds(driver, believed)


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"public": None}, "public", r"proxy\.closed_form.*builtin:pydoc.*closed_form=false"),
        ({"public": None, "proxy": {**FEDPFT, "closed_form": False}}, "public", r"proxy\.distill=null"),
        ({"tune": {"kind": "full"}}, "tune.kind", "targets neurons that the proxy cuts"),
        ({"tune": {"kind": "dora", "target_modules": "ffn"}}, "tune.kind", "targets neurons that the proxy cuts"),
        ({"proxy": {**FEDPFT, "ffn_keep": 0.001}}, "proxy.ffn_keep", "leaves none"),
        ({"proxy": {**FEDPFT, "ffn_keep": 0}}, "proxy.ffn_keep", "must be > 0"),
        ({"proxy": {**FEDPFT, "keep_layers": [0, 1]}}, "proxy.keep_layers", "every layer stays whole"),
        ({"proxy": {**FEDPFT, "keep_layers": [5]}}, "proxy.keep_layers", "no layer 5"),
        ({"proxy": {**FEDPFT, "path": "nowhere"}}, "proxy.path", "not a proxy's folder"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_change(
    tmp_path: Path, changes: dict[str, Any], where: str, said: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        build(tmp_path, **changes)
    (problem,) = caught.value.problems
    assert problem.where == where
    with pytest.raises(RecipeError, match=said):
        raise caught.value


def test_without_public_data_a_proxy_may_be_used_as_it_is_cut(tmp_path: Path) -> None:
    proxy = {**FEDPFT, "closed_form": False, "distill": None, "interval": None}
    driver, state = play(build(tmp_path, proxy, public=None), tmp_path)
    assert state.proxy is not None
    assert state.proxy.number == 0
    stages = [line["stage"] for line in jsonl.records(driver.folder.metrics) if line["split"] == "proxy"]
    assert stages == ["constructed"]


def test_a_version_is_a_value(tmp_path: Path) -> None:
    experiment = build(tmp_path)
    driver = Driver(experiment, LocalRuntime(experiment.worker), RunFolder.create(tmp_path / "run"), [], StopRequest())
    start = driver.start()
    assert isinstance(start.proxy, ModelVersion)
    before = digest(start.proxy.own)
    play_rounds(driver, start)
    assert digest(start.proxy.own) == before


REFINED = {**FEDPFT, "plug_in": {"distill": {"steps": 4, "batch_size": 4, "keep": "always"}}}


def test_the_plug_in_is_distilled_after_the_last_round(tmp_path: Path) -> None:
    plain, refined = build(tmp_path), build(tmp_path, REFINED)
    _, before = play(plain, tmp_path)
    driver, after = play(refined, tmp_path / "refined")
    assert digest(after.params) == digest(before.params)  # what travels is the same
    assert before.refined is None
    assert after.refined is not None
    plugged = refined.client_model.to_backbone(after.params)
    assert after.refined.params.keys() == plugged.keys()
    assert digest(after.refined.params) != digest(plugged)
    refined.tunable.write(after.refined.params)
    assert after.refined.scores == {split: scores for split, _, scores in refined.evaluate_backbone()}
    lines = [line for line in jsonl.records(driver.folder.metrics) if line.get("stage") == "plug-in distilled"]
    assert [(line["round"], line["kept"]) for line in lines] == [(3, True)]


def test_the_plug_in_learns_from_its_own_public_data(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"words": "a question of the task, {n}"}}\n' for n in range(40)))
    own = {"data": str(tmp_path / "texts.jsonl"), "text": "words"}
    experiment = build(tmp_path, {**REFINED, "plug_in": {**REFINED["plug_in"], "public": own}})
    public, learnt = experiment.data.public, experiment.data.plug_in_public
    assert public is not None
    assert learnt is not None
    assert public.digest != learnt.digest
    assert experiment.data.digests["proxy.plug_in.public"] == learnt.digest  # a resumed run must have the same
    _, same = play(build(tmp_path, REFINED), tmp_path / "same")
    _, other = play(experiment, tmp_path / "other")
    assert digest(other.params) == digest(same.params)
    assert other.refined is not None
    assert same.refined is not None
    assert digest(other.refined.params) != digest(same.refined.params)


@pytest.mark.parametrize(
    ("plug_in", "words"),
    [
        ({"distill": {}, "public": {"data": "nowhere.jsonl"}}, "proxy.plug_in.public.data: no such file"),
        ({"distill": {}, "public": {"data": "builtin:pydoc", "text": "lines"}}, "proxy.plug_in.public.text: "),
        ({"public": {"data": "builtin:pydoc"}}, "proxy.plug_in: public is read by distill alone"),
    ],
)
def test_public_data_of_the_plug_in_that_does_not_fit_is_refused(
    tmp_path: Path, plug_in: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        build(tmp_path, {**FEDPFT, "plug_in": plug_in})


def test_a_run_that_ended_before_the_plug_in_was_distilled_does_it_when_resumed(tmp_path: Path) -> None:
    driver, after = play(build(tmp_path, REFINED), tmp_path)
    experiment = build(tmp_path, REFINED)
    again = Driver(experiment, LocalRuntime(experiment.worker), driver.folder, [], StopRequest())
    resumed = play_rounds(again, dataclasses.replace(after, refined=None))
    assert after.refined is not None
    assert resumed.refined is not None
    assert digest(resumed.refined.params) == digest(after.refined.params)
    assert resumed.refined.scores == after.refined.scores


def test_an_outcome_that_is_no_better_on_validation_data_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = {**FEDPFT, "plug_in": {"distill": {"steps": 2, "batch_size": 4}}}
    data = {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl"), "max_length": 32}
    experiment = build(tmp_path, proxy, data={**data, "validation": 0.25})
    judged: list[str] = []

    def judge(self: Experiment, params: Params) -> tuple[float, ...]:
        judged.append(digest(params))
        return (0.0,)  # a tie

    monkeypatch.setattr(Experiment, "judge", judge)
    _, state = play(experiment, tmp_path)
    assert len(set(judged)) == 2
    assert state.refined is not None
    assert (state.refined.params, state.refined.scores) == ({}, {})
