"""What rules on factors do not go with, and what a run with one sends, records and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from fedfm.aggregation.lora import AggregationError
from fedfm.errors import InterruptedRunError, RecipeError
from fedfm.params import Params, digest, load
from fedfm.recipe import load_recipe
from fedfm.trackers.listeners import Listener
from tests.alike import PROXY
from tests.small import small_recipe

SGD = {"batch_size": 5, "learning_rate": 0.05, "optimizer": "sgd", "max_grad_norm": None}
GOSSIP = {"protocol": {"kind": "gossip"}, "federation": {"clients": 6, "rounds": 2}}
BUFFERED = {"protocol": {"kind": "buffered", "size": 2}}
SHARE = {"tune": {"kind": "lora", "share": "not head"}}


@pytest.mark.parametrize(
    ("rule", "changes", "reason"),
    [
        ("flexlora", {"algorithm": {"name": "fedadam"}}, "needs lasting coordinates: the server's step"),
        ("fedsvd", {"algorithm": {"name": "fedavgm"}}, "needs lasting coordinates: the server's step"),
        ("fedsvd", {"algorithm": {"name": "scaffold"}, "local": SGD}, "needs lasting coordinates: clients keep"),
        ("flexlora", {"updates": [{"kind": "top-k"}]}, "needs lasting coordinates: clients keep tensors for it"),
        ("ffa", {"tune": {"kind": "ia3"}}, "needs low-rank factors: it fixes one factor of each pair"),
        ("ffa", SHARE, "needs a tunable without personal parts"),
        ("fedrot", SHARE, "needs one model"),
        ("rolora", BUFFERED, "needs clients in the same round: all clients of a round train the same factor"),
        ("lora-fair", BUFFERED, "needs barrier"),
        ("fedsvd", GOSSIP, "needs one model"),
    ],
)
def test_what_does_not_go_together_is_refused(rule: str, changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=reason):
        load_recipe(small_recipe(tmp_path, aggregate={"rule": rule}, **changes))


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("ffa", {"algorithm": {"name": "fedadam"}, "updates": [{"kind": "top-k"}]}),
        ("ffa", BUFFERED),
        ("ffa", GOSSIP),
        ("rolora", GOSSIP),
        ("rolora", {"algorithm": {"name": "scaffold"}, "local": SGD}),
        ("flexlora", {"algorithm": {"name": "fedprox"}, "federation": {"ranks": [2, 4]}}),
        ("fedrot", {"algorithm": {"name": "fedyogi"}, "tune": {"kind": "dora"}}),
    ],
)
def test_what_goes_together_is_accepted(rule: str, changes: dict[str, Any], tmp_path: Path) -> None:
    load_recipe(small_recipe(tmp_path, aggregate={"rule": rule}, **changes))


def small(folder: Path, name: str, rule: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Two rounds of rank 2, in this process."""
    federation = {"clients": 6, "per_round": 3, "rounds": 2}
    here = {"kind": "local", "processes": 1, "threads": 1}
    values = {"tune": {"kind": "lora", "r": 2}, "federation": federation, "runtime": here, **changes}
    return small_recipe(folder, **values) | {"name": name, "aggregate": rule}


def lines(run: fedfm.Run, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / file).read_text().splitlines()]


def sent(run: fedfm.Run, direction: str) -> list[set[str]]:
    """Factors in the messages of each round."""
    found: dict[int, set[str]] = {}
    for line in lines(run, "wire.jsonl"):
        if line["direction"] == direction and "tensors" in line:
            names = " ".join(map(str, line["tensors"]))
            found.setdefault(line["round"], set()).update(f for f in ("lora_A", "lora_B") if f in names)
    return [found[number] for number in sorted(found)]


def errors(run: fedfm.Run) -> list[float]:
    return [line["aggregation_error"] for line in lines(run, "metrics.jsonl") if line["split"] == "train"]


def adapter(run: fedfm.Run) -> Params:
    return load(run.path / "adapter" / "adapter_model.safetensors")


def test_the_fixed_factor_is_never_sent_and_is_exported(tmp_path: Path) -> None:
    run = fedfm.run(small(tmp_path, "ffa", {"rule": "ffa", "initial_a": "orthonormal"}))
    assert sent(run, "down") == sent(run, "up") == [{"lora_B"}] * 2
    assert max(errors(run)) < 1e-6
    found = adapter(run)
    for name, tensor in found.items():
        if "lora_A" in name:
            torch.testing.assert_close(tensor @ tensor.T, torch.eye(2))
        assert tensor.any()


def test_the_factors_travel_in_turns_and_a_resumed_run_keeps_the_turn(tmp_path: Path) -> None:
    class Stops(Listener):
        def on_round(self, record: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    whole = fedfm.run(small(tmp_path, "whole", {"rule": "rolora"}))
    assert sent(whole, "down") == [{"lora_A", "lora_B"}] * 2
    assert sent(whole, "up") == [{"lora_B"}, {"lora_A"}]
    assert max(errors(whole)) < 1e-6
    with pytest.raises(InterruptedRunError):
        fedfm.run(small(tmp_path, "stopped", {"rule": "rolora"}), listeners=[Stops()])
    resumed = fedfm.resume(tmp_path / "runs" / "stopped")
    assert digest(adapter(resumed)) == digest(adapter(whole))


def test_with_a_proxy_the_fixed_factor_is_sent_and_does_not_change(tmp_path: Path) -> None:
    run = fedfm.run(small(tmp_path, "proxied", {"rule": "ffa"}, proxy={**PROXY, "interval": None}))
    assert sent(run, "down") == [{"lora_A", "lora_B"}] * 2
    assert sent(run, "up") == [{"lora_B"}] * 2
    assert max(errors(run)) < 1e-6


def test_the_error_changes_nothing_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = fedfm.run(small(tmp_path, "measured", {"rule": "mean"}))
    assert min(errors(measured)) > 1e-6
    monkeypatch.setattr(AggregationError, "add", lambda *_: None)
    without = fedfm.run(small(tmp_path, "without", {"rule": "mean"}))
    assert "aggregation_error" not in lines(without, "metrics.jsonl")[1]
    assert digest(adapter(measured)) == digest(adapter(without))
    assert (measured.path / "wire.jsonl").read_text() == (without.path / "wire.jsonl").read_text()


@pytest.mark.parametrize("rule", ["rolora", "fedsvd"])
def test_clients_in_one_pass_train_the_same_factors_as_alone(rule: str, tmp_path: Path) -> None:
    runs = [
        fedfm.run(small(tmp_path, f"{rule}-{stack}", {"rule": rule}), [f"runtime.stack={stack}", "local.optimizer=sgd"])
        for stack in ("off", "3")
    ]
    alone, together = map(adapter, runs)
    assert sent(runs[0], "up") == sent(runs[1], "up")
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-3, atol=1e-5)
