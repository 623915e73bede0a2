"""Figures of the sections, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from fedfm.records.costs import CostTotals, totals_of
from fedfm.records.ledger import LedgerTotals, TensorGroup
from fedfm.records.reading import RunFiles
from fedfm.report import sections
from fedfm.report.sections.learning import _bytes_until


def run_files(**changes: Any) -> RunFiles:
    files: dict[str, Any] = {
        "recipe_text": "name: x\n",
        "recipe": {"name": "x", "federation": {"rounds": 2, "per_round": 0.5}},
        "summary": None,
        "environment": None,
        "evaluation": None,
        "matrix": None,
        "samples": None,
        "judge": None,
        "synthetic": None,
        "profile": None,
        "audit": None,
        "clients": [],
        "metrics": [],
        "events": [],
        "traffic": LedgerTotals(down=0, up=0, peer=0, by_round={}),
        "tensors": [],
        "costs": CostTotals(),
    }
    return RunFiles(**(files | changes))


def test_bytes_add_up_until_the_end_of_a_round() -> None:
    run = run_files(
        traffic=LedgerTotals(down=0, up=0, peer=0, by_round={1: {"down": 10, "up": 1}, 3: {"down": 20, "up": 2}})
    )
    until = _bytes_until(run)
    assert [until({"round": number}) for number in range(5)] == [0, 11, 11, 33, 33]


def test_the_headline_is_the_summarys_or_the_first_metric_or_the_loss() -> None:
    row = {"round": 0, "split": "test", "client": None, "loss": 1.0, "matthews": 0.1, "examples": 3, "seconds": 1.0}
    assert run_files(summary={"metric": "macro_f1"}, metrics=[row]).headline == "macro_f1"
    assert run_files(metrics=[row]).headline == "matthews"
    assert run_files().headline == "loss"


def test_a_baseline_of_several_counts_with_its_mean_and_none_is_left_out() -> None:
    found = {"majority": None, "local": {"mean": 0.4, "worst": 0.3, "best": 0.5}, "pooled": 0.8}
    outcome = sections.outcome(
        run_files(summary={"metric": "accuracy", "final": {"accuracy": 0.7}, "baselines": found})
    )
    assert [(level.name, level.width) for level in outcome.levels] == [
        ("Each client alone", pytest.approx(40)),
        ("All data in one place", pytest.approx(80)),
        ("This run", pytest.approx(70)),
    ]


def test_a_fraction_of_clients_a_round_is_said_as_such() -> None:
    facts = {fact.name: fact for fact in sections.outcome(run_files()).facts}
    assert (facts["Rounds"].value, facts["Rounds"].note) == ("0", "of 2 planned, 50 % clients each")


def test_both_ways_of_a_tensor_stand_in_one_row() -> None:
    groups = [
        TensorGroup("down", "a", "float32", (8, 4), 6, 1000),
        TensorGroup("down", "b", "int8", (), 1, 5),
        TensorGroup("up", "a", "float32", (8, 4), 6, 900),
    ]
    traffic = LedgerTotals(down=1, up=1, peer=0, by_round={1: {"down": 1, "up": 1}})
    wire = sections.wire(run_files(tensors=groups, traffic=traffic))
    assert wire is not None
    assert [(row.name, row.shape, row.down, row.up) for row in wire.rows] == [
        ("a", "8 × 4", "1.00 kB", "900 B"),
        ("b", "scalar", "5 B", "–"),
    ]


def test_only_the_last_evaluation_of_clients_is_shown_from_the_lowest() -> None:
    rows = [
        {"round": number, "split": "client", "client": client, "accuracy": value, "loss": 1.0, "examples": 3}
        for number, client, value in [(1, "a", 0.1), (2, "a", 0.9), (2, "b", 0.6), (2, "c", None)]
    ]
    spread = sections.spread(run_files(summary={"metric": "accuracy"}, metrics=rows))
    assert spread is not None
    assert (spread.round, spread.count) == (2, 2)
    assert [(fact.name, fact.value, fact.note) for fact in spread.facts] == [
        ("Lowest", "60.0 %", "client b"),
        ("Highest", "90.0 %", "client a"),
    ]


def test_the_latest_faults_are_listed_and_all_are_counted() -> None:
    events = [{"round": number, "kind": "failed", "client": "a", "reason": ""} for number in range(60)]
    faults = sections.faults(run_files(events=events))
    assert faults.counts == [("failed", 60)]
    assert (len(faults.rows), faults.left_out, faults.rows[-1]["round"]) == (50, 10, 59)


def test_costs_are_added_up_and_a_round_takes_as_long_as_its_slowest_client() -> None:
    line = {"steps": 1, "samples": 10, "flops": 2e12, "memory_bytes": 5_000_000, "seconds": 9.0, "peak_bytes": None}
    lines = [
        {**line, "round": 1, "client": "a", "down": 8_000, "up": 1_000, "link_seconds": 3.0, "cpu_seconds": 1.0},
        {**line, "round": 1, "client": "b", "down": 8_000, "up": 2_000, "link_seconds": 1.0, "cpu_seconds": 4.0},
        {**line, "round": 2, "client": "a", "down": 7_000, "up": 1_000, "link_seconds": 2.0, "cpu_seconds": 2.0},
    ]
    totals = totals_of(lines)
    summary = totals.summary(watts=20.0)
    assert summary["round_seconds"] == {"compute": 6.0, "communication": 5.0}
    assert (summary["cpu_seconds"], summary["energy_joules"], summary["flops"]) == (7.0, 140.0, 6e12)
    assert summary["peak_bytes"] is None
    section = sections.costs(run_files(costs=totals, summary={"costs": summary}))
    assert section is not None
    assert {fact.name: fact.value for fact in section.facts} == {
        "Operations": "6 TFLOP",
        "CPU time": "7.0 s",
        "Energy": "0.0389 Wh",
        "Link time": "6.0 s",
        "Memory of a client": "5.00 MB",
    }
    assert [row[:6] for row in section.clients.rows] == [
        ["b", "1", "8.00 kB", "2.00 kB", "10", "2 TFLOP"],
        ["a", "2", "15.0 kB", "2.00 kB", "20", "4 TFLOP"],
    ]
    assert len(section.charts) == 1
    assert sections.costs(run_files()) is None


def test_checks_are_listed_in_the_order_of_a_run_and_only_failed_ones_are_faults() -> None:
    check = {"kind": "check", "client": None}
    events = [
        {**check, "round": 1, "reason": "later", "check": "reloaded", "sound": None},
        {**check, "round": 0, "reason": "older", "check": "moved", "sound": True},
        {**check, "round": 1, "reason": "newer", "check": "moved", "sound": False},
        {**check, "round": 1, "reason": "mine", "check": "of a plugin", "sound": True},
    ]
    found = sections.checks(run_files(events=events))
    assert [(row.title, row.outcome, row.found) for row in found] == [
        ("what should train has moved", "no", "newer"),
        ("what was written is the measured model", "not compared", "later"),
        ("of a plugin", "yes", "mine"),
    ]
    assert sections.faults(run_files(events=events)).counts == [("check", 1)]
    assert sections.checks(run_files()) == []


def probed(number: int, stage: str, error: float | None, **layers: float | None) -> dict[str, Any]:
    cosine = None if error is None else 1 - error
    return {
        "round": number,
        "split": "proxy",
        "client": None,
        "stage": stage,
        "gradient_error": error,
        "gradient_cosine": cosine,
        "gradient_norm_ratio": 1.0,
        "update_cosine": cosine,
        "agreement": 0.5,
        "divergence": 0.25,
        "hidden_error": None,
        "layers": {f"encoder.{name}": {"hidden_error": value} for name, value in layers.items()},
        "seconds": 1.0,
    }


PROXY = {
    "kind": "fedpft",
    "title": "FedPFT",
    "version": 2,
    "parameters": {"blocks": 750, "backbone_blocks": 1000, "total": 900},
    "disclosed": 0.445,
    "disclosed_blocks": {"layer.0": 1.0, "layer.1": 0.3},
    "final": {"accuracy": 0.68},
    "plug_in_gap": 0.02,
    "first_download": 3600,
    "seconds": 2.0,
}


def test_a_proxy_in_figures() -> None:
    summary = {"metric": "accuracy", "final": {"accuracy": 0.7}, "proxy": PROXY}
    metrics = [probed(0, "constructed", 0.75), probed(0, "closed-form", 0.25)]
    proxy = sections.proxy(run_files(summary=summary, metrics=metrics))
    assert proxy is not None
    assert (proxy.kind, proxy.probed) == ("FedPFT", True)
    assert [(fact.name, fact.value, fact.note) for fact in proxy.facts] == [
        ("Its blocks", "750", "parameters, 75.0 % of the backbone’s 1,000"),
        (
            "Disclosed",
            "44.5 %",
            "of the backbone’s blocks: parameters that clients hold unchanged or nearly so; 30.0 % to 100 % of a block",
        ),
        ("Plug-in gap", "+2.0 points", "backbone 70.0 %, proxy itself 68.0 %, both tuned"),
        ("Gradient cosine", "0.750", "with the backbone’s gradient, 0.250 at first"),
        ("First download", "3.60 kB", "the proxy, once to each client"),
        ("Server’s time", "2.0 s", "for fitting, realigning and probing; now version 2"),
    ]
    assert proxy.figures.rows == [
        ["constructed", "0", "0.750", "0.250", "1.000", "0.250", "50.0 %", "0.250", "–"],
        ["closed form", "0", "0.250", "0.750", "1.000", "0.750", "50.0 %", "0.250", "–"],
    ]


def test_a_plug_in_that_lost_accuracy_is_a_warning_and_says_what_helps() -> None:
    summary = {"metric": "accuracy", "final": {"accuracy": 0.65}, "proxy": {**PROXY, "plug_in_gap": -0.03}}
    proxy = sections.proxy(run_files(summary=summary))
    assert proxy is not None
    assert proxy.warning == (
        "plugged in, what clients tuned gives accuracy 65.0 %, on the proxy itself 68.0 %; proxy.plug_in.distill lets "
        "the model learn from the proxy on public data"
    )
    distilled = {**PROXY, "plug_in_gap": -0.03, "plugged": {"accuracy": 0.6}, "distilled": {"accuracy": 0.65}}
    proxy = sections.proxy(run_files(summary={**summary, "proxy": distilled}))
    assert proxy is not None
    assert proxy.warning is not None
    assert proxy.warning.endswith("; plug-in distillation did not close the gap")
    assert ("Distilled plug-in", "65.0 %", "the backbone after plug-in distillation; before it 60.0 %") in [
        (fact.name, fact.value, fact.note) for fact in proxy.facts
    ]


@pytest.mark.parametrize(
    ("metric", "own", "final", "plugged", "said"),
    [
        ("accuracy", 0.68, 0.65, 0.66, "made it worse (66.0 % before)"),
        ("accuracy", 0.68, 0.65, 0.65, "did not close the gap"),
        ("perplexity", 20.0, 22.0, 21.0, "made it worse (21.0 before)"),
        ("perplexity", 20.0, 22.0, 24.0, "did not close the gap"),
    ],
)
def test_a_distillation_that_made_the_backbone_worse_is_named(
    metric: str, own: float, final: float, plugged: float, said: str
) -> None:
    figures = {"plug_in_gap": -abs(final - own), "final": own, "plugged": plugged, "distilled": final}
    nested = {key: {metric: value} if key != "plug_in_gap" else value for key, value in figures.items()}
    proxy = sections.proxy(run_files(summary={"metric": metric, "final": {metric: final}, "proxy": nested}))
    assert proxy is not None
    assert proxy.warning is not None
    assert said in proxy.warning


def test_a_distillation_whose_outcome_was_dropped_is_shown() -> None:
    line = {"round": 4, "split": "proxy", "client": None, "stage": "plug-in distilled", "kept": 0.0}
    summary = {"metric": "accuracy", "proxy": {**PROXY, "distilled": None}}
    proxy = sections.proxy(run_files(summary=summary, metrics=[line]))
    assert proxy is not None
    assert ("Distilled plug-in", "not kept") in [(fact.name, fact.value) for fact in proxy.facts]


@pytest.mark.parametrize(
    ("metric", "gap", "told"), [("accuracy", -0.004, "−0.4 points"), ("perplexity", 2.5, "+2.500")]
)
def test_the_gap_is_in_points_where_the_metric_is_a_share(metric: str, gap: float, told: str) -> None:
    proxy = sections.proxy(run_files(summary={"metric": metric, "proxy": {"kind": "fedpft", "plug_in_gap": gap}}))
    assert proxy is not None
    assert [fact.value for fact in proxy.facts] == [told]
    assert (proxy.probed, proxy.charts, proxy.legend) == (False, [], [])


@pytest.mark.parametrize(
    ("stages", "titles"),
    [
        ([(0, "constructed", 0.5, {})], []),
        ([(0, "constructed", 0.5, {}), (0, "distilled", 0.4, {})], ["Gradient while it was fitted"]),
        ([(0, "loaded", 0.5, {}), (5, "aligned", 0.4, {})], ["Gradient while it was tuned"]),
        ([(0, "constructed", None, {"a": 0.5})], ["Error of blocks’ outputs"]),
        ([(0, "constructed", None, {"a": None}), (0, "distilled", None, {})], []),
    ],
)
def test_a_proxy_is_drawn_as_far_as_it_was_probed(stages: list[Any], titles: list[str]) -> None:
    metrics = [probed(number, stage, error, **layers) for number, stage, error, layers in stages]
    proxy = sections.proxy(run_files(metrics=metrics))
    assert proxy is not None
    assert [chart.title for chart in proxy.charts] == titles


def test_without_a_proxy_there_is_no_section() -> None:
    assert sections.proxy(run_files(summary={"proxy": None})) is None


def test_figures_of_a_proxy_are_no_metrics_of_the_run() -> None:
    test = {"round": 0, "split": "test", "client": None, "loss": 1.0, "accuracy": 0.1, "examples": 3, "seconds": 1.0}
    without, with_proxy = (
        run_files(metrics=lines) for lines in ([test], [probed(0, "constructed", 0.5), test, probed(1, "aligned", 0.4)])
    )
    assert with_proxy.headline == "accuracy"
    assert sections.learning(with_proxy) == sections.learning(without)


PROFILE = {
    "seconds": {"train": 30.0, "evaluate": 10.0, "total": 40.0},
    "training": {"data": 1.0, "forward": 24.0, "backward": 30.0, "optimizer": 5.0},
    "processes": 2,
    "threads": 1,
    "tokens": 6000,
    "operations": 6e12,
    "operations_a_second": 1e11,
    "gemm_peak": 2e11,
    "share": 0.5,
}


def test_time_is_told_only_where_it_was_booked() -> None:
    assert sections.time(run_files()) is None
    told = sections.time(run_files(profile=PROFILE))
    assert told is not None
    facts = {fact.name: fact.value for fact in told.facts}
    assert facts["Trained by"] == "2 processes"
    assert facts["Tokens a second"] == "100"
    assert facts["Share of the peak"] == "50.0 %"
    assert told.run.rows == [("train", "30 s", "75.0 %"), ("evaluate", "10 s", "25.0 %")]
    assert [row[0] for row in told.training.rows] == ["backward", "forward", "optimizer", "data"]


def test_a_run_that_trained_nothing_has_no_share_of_the_peak() -> None:
    nothing = {"tokens": 0, "operations": 0.0, "operations_a_second": None, "share": None}
    training = dict.fromkeys(PROFILE["training"], 0.0)  # type: ignore[arg-type]
    told = sections.time(run_files(profile=PROFILE | nothing | {"training": training}))
    assert told is not None
    assert [fact.name for fact in told.facts] == ["Trained by", "Tokens trained on"]


def evaluation(names: list[str], confusion: list[list[int]]) -> dict[str, Any]:
    rows = [
        {"label": name, "precision": None, "recall": 0.5, "f1": index / 100, "examples": sum(counts)}
        for index, (name, counts) in enumerate(zip(names, confusion, strict=True))
    ]
    return {"examples": 0, "metrics": {}, "classes": rows, "confusion": confusion}


def test_classes_say_what_they_are_taken_for() -> None:
    found = sections.classes(run_files(evaluation=evaluation(["cat", "dog", "emu"], [[5, 0, 2], [0, 4, 0], [0, 0, 0]])))
    assert found is not None
    assert found.figures.rows[0] == ["cat", "7", "–", "50.0 %", "0.0 %", "emu (2)"]
    assert [row[-1] for row in found.figures.rows] == ["emu (2)", "–", "–"]
    (name, cells), *_ = found.confusion
    assert (name, [(cell.count, cell.shade) for cell in cells]) == ("cat", [(5, 5 / 7), (0, 0.0), (2, 2 / 7)])


def test_of_many_classes_the_worst_are_shown_without_a_matrix() -> None:
    names = [f"c{index}" for index in range(250)]
    found = sections.classes(run_files(evaluation=evaluation(names, [[0] * 250 for _ in names])))
    assert found is not None
    assert ([row[0] for row in found.figures.rows], found.left_out) == (names[:200], 50)
    assert not found.confusion


def test_without_an_evaluation_by_class_there_is_no_section() -> None:
    assert sections.classes(run_files()) is None
    assert sections.classes(run_files(evaluation={"classes": None, "confusion": None})) is None


def client_rows() -> list[dict[str, Any]]:
    rows = [(1, "a", 0.5, 30), (1, "b", 0.9, 10), (2, "a", 0.7, 30), (2, "b", None, 10)]
    keys = ("round", "client", "accuracy", "examples")
    found = [{"split": "client", **dict(zip(keys, row, strict=True))} for row in rows]
    return [*found, {"round": 1, "split": "train", "client": None, "loss": 1.0, "examples": 40, "seconds": 3.0}]


def test_a_run_that_is_judged_by_its_clients_shows_their_mean_weighted_by_examples() -> None:
    run = run_files(metrics=client_rows())
    assert run.headline == "accuracy"
    assert [row["accuracy"] for row in run.scored] == [pytest.approx(0.6), pytest.approx(0.7)]
    assert [row.get("seconds") for row in run.scored] == [3.0, None]
    found = sections.outcome(run)
    assert (found.heading, found.value, found.before) == ("Accuracy, mean over clients", "70.0 %", "60.0 %")
    learning = sections.learning(run)
    assert learning is not None
    assert [key.text for key in learning.legend] == ["train", "clients"]
    assert learning.figures.rows[1][2] == "70.0 %"


def test_a_test_set_judges_the_run_unless_the_summary_says_otherwise() -> None:
    row = {"round": 2, "split": "test", "client": None, "accuracy": 0.4, "examples": 3, "seconds": 1.0}
    assert run_files(metrics=[*client_rows(), row]).scored == [row]
    both = run_files(metrics=[*client_rows(), row], summary={"metric": "accuracy", "final_by": "clients"})
    assert sections.outcome(both).heading == "Accuracy, mean over clients"


def test_a_protocol_is_a_fact_with_its_figures() -> None:
    summary = {"metric": "accuracy", "protocol": {"kind": "buffered", "mean_staleness": 1.25, "late": 3, "lost": None}}
    facts = {fact.name: fact for fact in sections.outcome(run_files(summary=summary)).facts}
    assert (facts["Protocol"].value, facts["Protocol"].note) == ("buffered", "mean staleness 1.25, late 3")


def test_what_clients_send_to_each_other_is_part_of_up() -> None:
    traffic = LedgerTotals(down=0, up=30, peer=20, by_round={1: {"down": 0, "up": 30}})
    ways = [("peer", 20, ("layer.*.w",)), ("up", 10, ())]
    groups = [TensorGroup(way, "values", "int8", (9,), 1, sent, named) for way, sent, named in ways]  # type: ignore[arg-type]
    wire = sections.wire(run_files(traffic=traffic, tensors=groups))
    assert wire is not None
    assert wire.peer
    (row,) = wire.rows
    assert (row.down, row.up, row.stands_for) == ("–", "30 B", ["layer.*.w"])
    facts = {fact.name: fact.note for fact in sections.outcome(run_files(traffic=traffic)).facts}
    assert facts["Sent"] == "0 B down, 30 B up, of which 20 B to other clients"


def test_the_clients_that_gained_least_over_training_alone_come_first() -> None:
    compared = {
        "metric": "accuracy",
        "by_client": {"a": {"after": 0.9, "local": 0.5}, "b": {"after": 0.4, "local": 0.6}, "c": {"local": 0.1}},
        "spread": {"after": {"worst_10_percent": 0.4}, "local": {"worst_10_percent": 0.1}},
        "worse_than": {"local": ["b"]},
    }
    matrix = {"metric": "accuracy", "clients": ["a", "b"], "values": [[0.9, 0.1], [None, 0.4]]}
    found = sections.comparison(run_files(summary={"clients_compared": compared}, matrix=matrix))
    assert found is not None
    assert found.clients is not None
    assert list(found.clients.columns) == ["Client", "After", "Alone"]
    assert [row[0] for row in found.clients.rows] == ["b", "a", "c"]
    assert found.clients.rows[2][1] == "–"
    assert "1" in [fact.value for fact in found.facts if fact.name == "Worse off"]
    (chart,) = found.charts
    assert "10.0 %" in chart.title.replace("\u202f", " ").replace("\xa0", " ")
    assert sections.comparison(run_files()) is None
