"""Rules that add to the frozen weights: the model after a run is the clients' mean, in all files and after a resume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

import fedfm
from fedfm import Listener, Run, resume, run
from fedfm.aggregation import RULES, Contribution
from fedfm.aggregation.lora.exact import ExactFold
from fedfm.errors import InterruptedRunError, RecipeError
from fedfm.params import Params, digest, load
from fedfm.proxies.added_weights import AddedWeights
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.server.runs.planning import plan
from tests.models.cases import load as load_backbone
from tests.small import small_recipe

EXACT = sorted(name for name, rule in RULES.items() if rule().merges)
R, ALPHA = 2, 8
every_rule = pytest.mark.parametrize("rule", EXACT)


def recipe(folder: Path, rule: str, **changes: Any) -> dict[str, Any]:
    federation = {"clients": 5, "per_round": 3, "rounds": 3, **changes.pop("federation", {})}
    tune = {"kind": "lora", "r": R, "lora_alpha": ALPHA}
    small = small_recipe(folder, aggregate={"rule": rule}, tune=tune, federation=federation, **changes)
    return {**small, "evaluate": {"every": 3}}


class Recorded:
    """What clients sent in each round of a run, and what they started from."""

    def __init__(self) -> None:
        self.rounds: list[tuple[Mapping[str, torch.Tensor], list[tuple[Params, int]]]] = []

    def of(self, fold: ExactFold) -> list[tuple[Params, int]]:
        if not self.rounds or self.rounds[-1][0] is not fold._params:
            self.rounds.append((fold._params, []))
        return self.rounds[-1][1]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    found, add = Recorded(), ExactFold.add

    def recording(self: ExactFold, update: Any, contribution: Contribution, slices: Any) -> None:
        found.of(self).append(({name: tensor.clone() for name, tensor in update.items()}, contribution.examples))
        add(self, update, contribution, slices)

    monkeypatch.setattr(ExactFold, "add", recording)
    return found


def dense(recorded: Recorded, first: np.ndarray, name: str) -> np.ndarray:
    """W₀ and the mean of the clients' ΔW of every round, with α/r, by matrices alone."""
    a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
    whole, scale = first.astype(np.float64), ALPHA / R
    for start, updates in recorded.rounds:
        examples = sum(count for _, count in updates)
        mean = sum(
            count / examples * (start[b] + update[b]).double().numpy() @ (start[a] + update[a]).double().numpy()
            for update, count in updates
        )
        whole = whole + scale * (mean - start[b].double().numpy() @ start[a].double().numpy())
    return whole


def farthest(recorded: Recorded, model: torch.nn.Module) -> float:
    """The largest difference of an adapted matrix from the dense computation."""
    first = load_backbone("tiny-bert", "text").model
    names = [name.removesuffix(".lora_A.weight") for name in recorded.rounds[0][0] if name.endswith("lora_A.weight")]
    differences = []
    for name in names:
        module = name.removeprefix("base_model.model.")
        before = first.get_submodule(module).weight.detach().numpy()
        after = model.get_submodule(module).weight.detach().double().numpy()
        assert np.abs(after - before).max() > 1e-3  # the rounds have moved it
        differences.append(np.abs(after - dense(recorded, before, name)).max())
    assert len(differences) == 8
    return float(max(differences))


def whole_model(finished: Run) -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(finished.path / "model", local_files_only=True)


@every_rule
def test_the_written_model_is_the_mean_of_the_clients_models(tmp_path: Path, rule: str, recorded: Recorded) -> None:
    finished = run(load_recipe(recipe(tmp_path, rule)))
    assert len(recorded.rounds) == 3
    assert farthest(recorded, whole_model(finished)) < 1e-6
    assert finished.summary["reloaded"]["agrees"]


@every_rule
def test_d16_a_residual_without_its_scale_is_found(
    tmp_path: Path, rule: str, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled = AddedWeights.product

    def bare(self: AddedWeights, residual: Params) -> dict[str, Any]:
        return {module: (up * R / ALPHA, down) for module, (up, down) in scaled(self, residual).items()}

    monkeypatch.setattr(AddedWeights, "product", bare)
    finished = run(load_recipe(recipe(tmp_path, rule, federation={"rounds": 2})))
    assert farthest(recorded, whole_model(finished)) > 1e-5


@every_rule
def test_the_adapter_of_the_summed_rank_is_the_same_model(tmp_path: Path, rule: str) -> None:
    finished = run(load_recipe(recipe(tmp_path, rule, federation={"rounds": 1})))
    assert finished.summary["needs_model"] is False
    expected = whole_model(finished)
    base = AutoModelForSequenceClassification.from_pretrained(
        finished.path / "adapter" / "base", num_labels=2, local_files_only=True
    )
    merged = PeftModel.from_pretrained(base, str(finished.path / "adapter")).merge_and_unload()
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], weight, atol=1e-6, rtol=1e-6)


def test_beyond_max_rank_there_is_no_adapter_and_the_card_says_so(tmp_path: Path) -> None:
    values = recipe(tmp_path, "fedex", federation={"rounds": 1})
    finished = run(load_recipe({**values, "aggregate": {"rule": "fedex", "max_rank": R}}))
    assert finished.summary["needs_model"] is True
    assert not (finished.path / "adapter").exists()
    assert "there is only this model" in (finished.path / "model" / "README.md").read_text()


class Interrupt(Listener):
    def on_client(self, round: int, done: int, total: int, client: str, seconds: float) -> None:  # noqa: A002
        if round == 3:
            raise KeyboardInterrupt


def files(path: Path) -> list[tuple[str, str]]:
    checkpoint = path / "checkpoints" / "round-0003"
    stored = [checkpoint / "params.safetensors", checkpoint / "proxy.safetensors", path / "model" / "model.safetensors"]
    return [(file.name, digest(load(file))) for file in stored]


@every_rule
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path: Path, rule: str) -> None:
    values = recipe(tmp_path, rule, runtime={"processes": 1})
    whole = run(load_recipe({**values, "run_dir": str(tmp_path / "whole")}))
    with pytest.raises(InterruptedRunError):
        run(load_recipe({**values, "run_dir": str(tmp_path / "cut")}), listeners=[Interrupt()])
    resumed = resume(tmp_path / "cut")
    assert files(resumed.path) == files(whole.path)
    assert (resumed.path / "wire.jsonl").read_bytes() == (whole.path / "wire.jsonl").read_bytes()
    assert resumed.summary["bytes"] == whole.summary["bytes"]
    exported = fedfm.export(resumed.path)  # from the checkpoint alone
    assert digest(load(exported / "model.safetensors")) == files(whole.path)[2][1]


def test_processes_and_stacks_give_the_same_model(tmp_path: Path) -> None:
    found = []
    for name, runtime in {"one": {"stack": 1}, "two": {"stack": 1, "processes": 2}}.items():
        values = recipe(tmp_path, "fedex", runtime=runtime)
        found.append(files(run(load_recipe({**values, "run_dir": str(tmp_path / name)})).path))
    assert found[0] == found[1]


@pytest.mark.parametrize("rule", ["flora", "fedex"])
def test_the_ledger_has_the_residuals_and_check_foresees_them(tmp_path: Path, rule: str) -> None:
    values = recipe(tmp_path, rule, federation={"rounds": 4})
    foreseen = plan(load_recipe(values))["bytes"]
    finished = run(load_recipe(values))
    tunable = finished.state.params
    sent = sum(
        tensor["bytes"] * len(line["clients"])
        for line in jsonl.records(finished.path / "wire.jsonl")
        for tensor in line["tensors"]
        if tensor["name"] not in tunable
    )
    assert sent > 5000
    assert sent == pytest.approx(foreseen["residual"], rel=0.3)  # headers are counted there
    whole = finished.summary["bytes"]["down"] + finished.summary["bytes"]["up"]
    assert whole == pytest.approx(foreseen["total"], rel=0.02)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("runtime.kind", {"runtime": {"kind": "flower"}}),
    ("proxy.kind", {"proxy": {"kind": "fedpft"}, "public": {"data": "builtin:pydoc"}}),
    ("algorithm.name", {"algorithm": {"name": "fedadam"}}),
    ("evaluate.patience", {"evaluate": {"patience": 2}}),
    ("tune.kind", {"tune": {"kind": "dora"}}),
    ("tune.share", {"tune": {"kind": "lora", "share": "not head"}}),
    ("protocol.kind", {"protocol": {"kind": "buffered"}}),
]


@every_rule
@pytest.mark.parametrize(("where", "changes"), REFUSED, ids=[where for where, _ in REFUSED])
def test_what_cannot_work_is_refused_with_the_reason(
    tmp_path: Path, rule: str, where: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError, match=r"aggregate\.rule: `" + rule) as caught:
        load_recipe({**recipe(tmp_path, rule), **changes})
    assert where in str(caught.value)


def test_baselines_start_from_the_pretrained_weights(tmp_path: Path) -> None:
    values = recipe(tmp_path, "flora")
    values["evaluate"] = {"every": 3, "baselines": ["pooled"]}
    with_rule = run(load_recipe({**values, "run_dir": str(tmp_path / "flora")}))
    plain = run(load_recipe({**values, "aggregate": {"rule": "mean"}, "run_dir": str(tmp_path / "mean")}))
    assert with_rule.summary["baselines"] == plain.summary["baselines"]
