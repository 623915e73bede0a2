"""summary.json, the report and the card of a protocol without a server and of personal parts."""

from __future__ import annotations

from pathlib import Path

import fedfm
from fedfm.recipe import load_recipe
from fedfm.records import ledger
from tests.small import small_recipe

FEDERATION = {"clients": 4, "per_round": 4, "rounds": 1}


def test_gossip_has_figures_and_its_bytes_left_clients(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, protocol={"kind": "gossip"}, federation=FEDERATION)
    run = fedfm.run(load_recipe(recipe))
    protocol = run.summary["protocol"]
    assert protocol["kind"] == "gossip"
    assert protocol["consensus_distance"] > 0
    totals = ledger.totals(run.folder.wire)
    assert totals["peer"] == totals["up"] == run.summary["bytes"]["up"] > 0
    report = run.folder.report.read_text(encoding="utf-8")
    assert "up: clients to server or to other clients" in report
    assert "consensus distance" in report


def test_a_personal_head_is_named_in_the_summary_and_on_the_card(tmp_path: Path) -> None:
    tune = {"kind": "lora", "r": 2, "share": "not head"}
    run = fedfm.run(load_recipe(small_recipe(tmp_path, tune=tune, federation=FEDERATION)))
    assert run.summary["protocol"] == {"kind": "star"}
    personal = run.summary["personal"]
    assert personal
    assert all("classifier" in name for name in personal)
    card = (run.path / "adapter" / "README.md").read_text(encoding="utf-8")
    assert f"the mean of the clients in the personal places: `{personal[0]}`" in card
