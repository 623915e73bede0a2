"""The ledger of costs against the ledger of messages, over runtimes, and after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.records import jsonl, ledger
from fedfm.records.costs import cost_columns, cost_totals
from tests.small import small_recipe

LINK = {"up": "8Mbit", "down": "80Mbit", "latency": 0.25}
MEASURED = ("cpu_seconds", "seconds", "peak_bytes")


def recipe(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    federation = {"clients": 4, "per_round": 2, "rounds": 2, "holdout": 0.2}
    return small_recipe(folder, name=name, federation=federation, evaluate={"at": "both"}, **changes)


def lines(run: fedfm.Run) -> list[dict[str, Any]]:
    return list(jsonl.records(run.path / "costs.jsonl"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> fedfm.Run:
    return fedfm.run(recipe(tmp_path_factory.mktemp("alone"), "alone", runtime={"link": LINK, "processes": 1}))


def test_its_bytes_are_those_of_the_messages(alone: fedfm.Run) -> None:
    sent, costs = ledger.totals(alone.path / "wire.jsonl"), cost_totals(alone.path / "costs.jsonl")
    assert (costs.total("down"), costs.total("up")) == (sent["down"], sent["up"])
    assert {number: (of.down, of.up) for number, of in costs.rounds.items()} == {
        number: (of["down"], of["up"]) for number, of in sent["by_round"].items()
    }


def test_each_line_adds_up(alone: fedfm.Run) -> None:
    found = lines(alone)
    assert [line["round"] for line in found] == [0] * 4 + [1] * 4 + [2] * 4, "all clients evaluate in each round"
    for line in found:
        messages = 4 if line["samples"] else 2
        seconds = line["down"] / 10e6 + line["up"] / 1e6 + 0.25 * messages
        assert line["link_seconds"] == pytest.approx(seconds)
        assert (line["flops"] > 0) == (line["samples"] > 0) == (line["round"] > 0 and line["steps"] > 0)
        assert line["cpu_seconds"] > 0.0
        assert line["peak_bytes"] > line["memory_bytes"] > 0


def test_the_summary_has_the_totals(alone: fedfm.Run) -> None:
    costs, found = alone.summary["costs"], lines(alone)
    assert costs["flops"] == sum(line["flops"] for line in found)
    assert costs["cpu_seconds"] == pytest.approx(sum(line["cpu_seconds"] for line in found))
    assert costs["energy_joules"] == pytest.approx(10.0 * costs["cpu_seconds"])
    slowest = [max(line["link_seconds"] for line in found if line["round"] == number) for number in range(3)]
    assert costs["round_seconds"]["communication"] == pytest.approx(sum(slowest))
    columns = cost_columns(alone.summary)
    assert columns["MB up"] == alone.summary["bytes"]["up"] / 1e6
    assert columns["Wh (estimate)"] == pytest.approx(costs["energy_joules"] / 3600)
    assert len(alone.costs) == len(found)
    assert "<h2>Costs</h2>" in (alone.path / "report.html").read_text()


def test_what_is_not_measured_is_the_same_in_processes_and_after_a_resume(alone: fedfm.Run, tmp_path: Path) -> None:
    shared = fedfm.run(recipe(tmp_path, "shared", runtime={"link": LINK, "processes": 2, "stack": 1}))
    assert [without_clocks(line) for line in lines(shared)] == [without_clocks(line) for line in lines(alone)]
    assert all(line["cpu_seconds"] > 0.0 for line in lines(shared))
    with pytest.raises(fedfm.FedfmError):
        fedfm.run(recipe(tmp_path, "stopped", runtime={"link": LINK, "processes": 1}), listeners=[Stopping()])
    resumed = fedfm.resume(tmp_path / "runs" / "stopped")
    assert [without_clocks(line) for line in lines(resumed)] == [without_clocks(line) for line in lines(alone)]


class Stopping(fedfm.Listener):
    """Interrupts a run in its second round."""

    def on_client(self, round: int, done: int, total: int, client: str, seconds: float) -> None:  # noqa: A002
        if round == 2:
            raise KeyboardInterrupt


def without_clocks(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in MEASURED}
