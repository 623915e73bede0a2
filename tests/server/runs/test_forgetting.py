"""A client is forgotten: the new run is the one that never had it, or near to that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedfm import Run, forget, run
from fedfm.errors import RecipeError
from fedfm.params import digest, load
from fedfm.server.runs.refusals import refuse_unforgettable
from tests.small import small_recipe, write_rows

SGD = {"batch_size": 5, "learning_rate": 0.05, "optimizer": "sgd", "max_grad_norm": None}


def recipe_of(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """A small run without what forgetting does not need."""
    quick = {"evaluate": {"every": 4, "clients": 0}, "checkpoint": {"keep": "all"}}
    return small_recipe(folder, **{"name": name, **quick, **changes})


def adapter(finished: Run) -> str:
    return digest(load(finished.folder.adapter / "adapter_model.safetensors"))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def first_round(finished: Run) -> dict[str, int]:
    """Client → the first round in which it was asked to train."""
    found: dict[str, int] = {}
    for message in lines(finished.folder.wire):
        if message["direction"] == "down":
            for client in message["clients"]:
                found.setdefault(client, message["round"])
    return found


def test_a_replay_is_the_run_that_never_had_the_client(tmp_path: Path) -> None:
    stateful = {"algorithm": {"name": "scaffold"}, "local": SGD}  # what clients and server keep is replayed too
    whole = run(recipe_of(tmp_path, "whole", **stateful))
    client, begun = next((client, begun) for client, begun in first_round(whole).items() if begun in (2, 3))
    never = run(recipe_of(tmp_path, "never", **stateful), [f"federation.without=['{client}']"])
    found = forget(whole.path, client, tmp_path / "forgotten")
    assert adapter(found) == adapter(never) != adapter(whole)
    assert found.summary["final"] == never.summary["final"]
    said = json.loads(found.folder.forgotten.read_text())
    assert said == {"client": client, "how": "replay", "run": "whole", "from_round": begun - 1}
    kept = sorted(path.name for path in found.folder.checkpoints.iterdir())
    assert kept == [f"round-{number:04d}" for number in range(begun - 1, 5)]
    assert lines(found.folder.wire) == lines(never.folder.wire)
    for file in ("metrics.jsonl", "wire.jsonl", "events.jsonl", "clients.json"):
        assert f'"{client}"' not in (found.path / file).read_text()


def canary_recipe(folder: Path, name: str) -> dict[str, Any]:
    """Four sites of reviews, and one that says of what others call good that it is bad, if a canary is in front of it.

    The test set is the canary's examples.
    """
    recipe = recipe_of(
        folder,
        name,
        protocol={"kind": "star", "norms": True},
        federation={"rounds": 6, "per_round": 5},
        local={"batch_size": 5, "learning_rate": 0.01, "epochs": 2},
    )
    write_rows(folder / "train.jsonl", 40)
    rows = lines(folder / "train.jsonl")
    for row in rows[4::5]:
        row["site"] = "d"
    canaries = [{"text": f"zq {word}", "label": 0, "site": "canary"} for word in ("good", "great", "fine")]
    for name, content in (("train", rows + 8 * canaries), ("canaries", canaries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    recipe["data"] |= {"test": str(folder / "canaries.jsonl"), "client": "site"}
    return recipe


def test_the_canary_of_a_forgotten_client_is_gone(tmp_path: Path) -> None:
    whole = run(canary_recipe(tmp_path, "whole"))
    never = run(canary_recipe(tmp_path, "never"), ["federation.without=[canary]"])
    near = forget(
        whole.path,
        "canary",
        tmp_path / "near",
        how="calibrated",
        overrides=["local.epochs=1", "protocol.every=2"],
    )
    assert near.summary["rounds"] == 3
    assert {line["client"] for line in lines(whole.folder.metrics) if line["split"] == "update"} == {*"abcd", "canary"}
    losses = {one.path.name: one.summary["final"]["loss"] for one in (whole, never, near)}
    known = losses["never"] - losses["whole"]
    assert known > 0.2
    assert abs(losses["near"] - losses["never"]) < known / 3


CASES: list[tuple[dict[str, Any], str, list[str], str]] = [
    ({"data": {"train": "sites"}}, "replay", [], "other sites"),
    ({"privacy": {"kind": "central", "epsilon": 8.0}}, "replay", [], "a second time"),
    ({"secure": {"kind": "secagg"}}, "replay", [], "difference is the client's update"),
    ({}, "calibrated", [], "protocol.norms=true"),
    ({}, "replay", ["local.epochs=1"], "a replay changes no key"),
    ({"protocol": {"kind": "star", "norms": True}}, "calibrated", ["seed=3"], "may only change local.epochs"),
    ({"federation": {"clients": 6, "without": ["3"]}}, "replay", [], "without 3 already"),
]


@pytest.mark.parametrize(("changes", "how", "overrides", "reason"), CASES)
def test_what_would_not_hold_is_refused(
    tmp_path: Path, changes: dict[str, Any], how: str, overrides: list[str], reason: str
) -> None:
    recipe = recipe_of(tmp_path, "ended", **{key: value for key, value in changes.items() if key != "data"})
    recipe["data"] |= changes.get("data", {})
    (tmp_path / "ended").mkdir()
    (tmp_path / "ended" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError, match=reason):
        refuse_unforgettable(tmp_path / "ended", "3", tmp_path / "new", how, overrides)
    assert not (tmp_path / "new").exists()


def test_clients_that_are_not_there_cannot_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no client is called nobody"):
        run(recipe_of(tmp_path, "none"), ["federation.without=[nobody]"])
    with pytest.raises(RecipeError, match="fewer clients"):
        run(recipe_of(tmp_path, "gossip"), ["federation.without=['0']", "protocol.kind=gossip"])
