"""Gossip of sites: the server that relays between them gives the run of a simulation, also when it is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm import resume
from fedfm.errors import InterruptedRunError
from fedfm.params import digest, load
from fedfm.protocols import Gossip
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.server.runs.finished import Run
from fedfm.server.runs.serving import for_sites
from fedfm.sites.policy import Policy
from fedfm.trackers.listeners import Listener
from tests.server.experiment.test_deployment import NAMES, at_sites, split
from tests.small import small_recipe

SGD = {"batch_size": 5, "learning_rate": 0.05, "optimizer": "sgd", "max_grad_norm": None, "momentum": 0.9}
METHODS: dict[str, dict[str, Any]] = {
    "DFedAvgM": {"protocol": {"kind": "gossip"}, "local": SGD},
    "D-PSGD": {"protocol": {"kind": "gossip", "order": "mix-then-train"}, "local": {**SGD, "max_steps": 1}},
    "ADF-LoRA, with absent sites": {
        "protocol": {"kind": "gossip", "graph": {"kind": "exponential"}, "absence": 0.3},
        "aggregate": {"rule": "rolora"},
    },
}


class Stopper(Listener):
    """Ends a run after a round."""

    def on_round(self, record: dict[str, Any]) -> None:
        if record["round"] == 1:
            raise KeyboardInterrupt


def values(folder: Path, name: str) -> dict[str, Any]:
    return small_recipe(folder, federation={"rounds": 2}, runtime={"stack": 1}, evaluate={"every": 2}, **METHODS[name])


def adapters(run: Run) -> dict[str, str]:
    """The delivered one, and that of each client."""
    found = sorted(run.path.glob("**/adapter/adapter_model.safetensors"))
    return {str(path.relative_to(run.path)): digest(load(path)) for path in found}


@pytest.mark.parametrize("name", METHODS)
def test_sites_give_the_run_of_a_simulation_bit_for_bit(name: str, tmp_path: Path) -> None:
    simulated = fedfm.run(load_recipe(values(tmp_path, name), ["data.client=site", "name=simulated"]))
    recipe = for_sites(load_recipe(values(tmp_path, name)), len(NAMES))
    deployment, *_ = at_sites(tmp_path, split(tmp_path))
    if name == "DFedAvgM":
        with pytest.raises((KeyboardInterrupt, InterruptedRunError)):
            fedfm.run(recipe, deployment=deployment, listeners=[Stopper()])
        deployment, *_ = at_sites(tmp_path, split(tmp_path))
        real = resume(recipe.folder, deployment=deployment)
    else:
        real = fedfm.run(recipe, deployment=deployment)
    assert len(adapters(real)) == 1 + len(NAMES)
    assert adapters(real) == adapters(simulated)
    mine, theirs = real.summary["protocol"], simulated.summary["protocol"]
    assert mine["consensus_distance"] == theirs["consensus_distance"]
    assert "edge_bytes" not in mine
    lines = [(line["round"], line["direction"], *line["clients"]) for line in jsonl.records(real.folder.wire)]
    protocol = recipe.protocol
    assert isinstance(protocol, Gossip)
    here = [(number, client) for number in (1, 2) for client in protocol.present(NAMES, recipe.seed, number)]
    assert sorted(lines) == sorted((number, way, client) for number, client in here for way in ("down", "up"))
    for way in ("down", "up"):
        crossed = sum(line["bytes"] for line in jsonl.records(real.folder.wire) if line["direction"] == way)
        assert real.summary["bytes"][way] == crossed


def test_a_site_measures_its_own_model_and_what_is_sent_for_it_is_counted(tmp_path: Path) -> None:
    changes = {"federation": {"rounds": 1, "holdout": 0.25}, "evaluate": {"at": "clients"}}
    whole = {"protocol": {"kind": "gossip"}, "runtime": {"stack": 1}, **changes}
    simulated = fedfm.run(load_recipe(small_recipe(tmp_path, **whole), ["data.client=site", "name=simulated"]))
    recipe = for_sites(load_recipe(small_recipe(tmp_path, **whole)), len(NAMES))
    deployment, *_ = at_sites(tmp_path, split(tmp_path), Policy(works=["train", "evaluate"]))
    real = fedfm.run(recipe, deployment=deployment)
    mine, theirs = (
        {
            (line["round"], line["client"]): line["accuracy"]
            for line in jsonl.records(run.folder.metrics)
            if line["split"] == "client"
        }
        for run in (real, simulated)
    )
    assert mine == theirs
    sent = [line for line in jsonl.records(real.folder.wire) if line["work"] == "evaluate" and line["round"] == 1]
    assert len(sent) == 2 * len(NAMES)
    assert len({line["tensors"][0]["digest"] for line in sent if line["direction"] == "down"}) == len(NAMES)
    assert not [line for line in jsonl.records(simulated.folder.wire) if line.get("work") == "evaluate"]


def test_what_a_round_of_sites_costs() -> None:
    planned = Gossip(absence=0.2).messages_of_sites(NAMES, len(NAMES), len(NAMES))
    assert (planned.down, planned.up, planned.peer) == (4, 4, 0)
