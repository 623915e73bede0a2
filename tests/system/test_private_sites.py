"""P7 at real sites: each keeps its own ledger of what its examples have spent, and relies on no server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.errors import TooFewClientsError
from fedfm.privacy.client_ledger import ClientLedger
from fedfm.recipe import Recipe, load_recipe
from fedfm.records import jsonl
from fedfm.server.rounds import driver
from fedfm.server.runs import start as runs
from fedfm.server.runs.baselines import Baselines
from fedfm.server.runs.serving import for_sites
from tests.server.experiment.test_deployment import NAMES
from tests.small import small_recipe
from tests.system.test_sites_that_keep import Killed, deployed, kill

PRIVATE = {"kind": "local", "noise_multiplier": 1.0, "delta": 1e-2}


@pytest.fixture(autouse=True)
def _only_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Baselines are not what is tested here."""
    monkeypatch.setattr(runs, "baselines", lambda experiment, state: Baselines())


def recipe_of(folder: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "federation": {"per_round": 5, "rounds": 2, "quorum": 0.6},
        "local": {"batch_size": 6, "learning_rate": 0.01, "max_steps": 1},
        "privacy": PRIVATE,
    }
    return for_sites(load_recipe(small_recipe(folder, **values | changes)), len(NAMES))


def lines(path: Path) -> list[dict[str, Any]]:
    return [line for line in jsonl.records(path) if line["kind"] == "steps"]


def site_ledger(folder: Path, name: str) -> Path:
    (found,) = (folder / f"site-{name}").rglob("privacy.jsonl")
    return found


def test_p7_each_site_counts_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site whose ledger is gone trains no more; the others have what the server has, a repeated round included."""
    recipe = recipe_of(tmp_path)
    with monkeypatch.context() as patch:
        kill(patch, driver.Driver, "_check_finite", 2)  # the answers of round 2 have come
        with pytest.raises(Killed):
            fedfm.run(recipe, deployment=deployed(tmp_path))
    site_ledger(tmp_path, "a").unlink()
    run = fedfm.resume(recipe.folder, deployment=deployed(tmp_path))
    failed = [event for event in run.events if event["kind"] == "failed"]
    assert {event["client"] for event in failed} == {"a"}
    assert "the site's disk is full, or cannot be written or read" in failed[0]["reason"]
    server = ClientLedger.of(jsonl.records(run.path / "privacy.jsonl"))
    for name in NAMES[1:]:
        own = lines(site_ledger(tmp_path, name))
        assert [line["round"] for line in own] == [1, 2, 2]
        assert len({line["run"] for line in own}) == 1
        assert ClientLedger.of(own).spent == {name: server.spent[name]}
    assert run.summary["privacy"]["rounds"] == 3


def test_a_site_does_not_rely_on_the_servers_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that asks on after the budget is spent is refused, with the key."""
    monkeypatch.setattr("fedfm.server.rounds.example_guard.ExampleGuard._reason", lambda guard, client: None)
    recipe = recipe_of(
        tmp_path,
        privacy=PRIVATE | {"epsilon": 3.0},
        federation={"per_round": 5, "rounds": 8, "quorum": 0.6},
    )
    with pytest.raises(TooFewClientsError, match=r"privacy\.epsilon"):
        fedfm.run(recipe, deployment=deployed(tmp_path))
    promise = recipe.privacy.examples(recipe.local, recipe.federation.rounds)
    assert promise is not None
    for name in NAMES:
        spent = ClientLedger.of(lines(site_ledger(tmp_path, name))).spent[name]
        assert 0 < promise.epsilon(spent) <= 3.0
        assert not promise.affords(spent, promise.at(lines(site_ledger(tmp_path, name))[0]["examples"]))


def test_a_site_refuses_a_delta_that_protects_nobody(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, privacy=PRIVATE | {"delta": 0.5})
    with pytest.raises(TooFewClientsError, match=r"does not fit what is at the site \(privacy\.delta\)"):
        fedfm.run(recipe, deployment=deployed(tmp_path))
