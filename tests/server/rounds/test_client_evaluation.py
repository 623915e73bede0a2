"""Evaluation at clients and what is delivered where clients hold different models, against plain peft."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

import fedfm
from fedfm.errors import RecipeError
from fedfm.params import load
from fedfm.recipe import load_recipe
from fedfm.report.page import write_report
from fedfm.server.experiment.build import build_experiment
from fedfm.server.rounds.client_evaluation import ClientFigures, mean_over_clients
from fedfm.server.runs.artifacts import export, folder_name
from fedfm.server.runs.finished import Run
from fedfm.server.runs.planning import plan
from tests.small import small_recipe

FEDERATION = {"clients": 4, "per_round": 2, "rounds": 2, "holdout": 0.4}
QUANTIZED = [{"kind": "quantize", "direction": "both"}]
ALL = {"keep": "all"}
AT_CLIENTS = {"federation": FEDERATION, "evaluate": {"at": "clients"}}
KINDS: dict[str, dict[str, Any]] = {
    "personal": {**AT_CLIENTS, "tune": {"kind": "lora", "share": "not head"}, "updates": QUANTIZED, "checkpoint": ALL},
    "gossip": {**AT_CLIENTS, "federation": {**FEDERATION, "per_round": None}, "protocol": {"kind": "gossip"}},
    "both": {"federation": FEDERATION, "evaluate": {"at": "both"}},
}
HEAD = "base_model.model.classifier.weight"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {kind: fedfm.run(small_recipe(folder, **{**values, "name": kind})) for kind, values in KINDS.items()}


def lines(run: Run, file: str) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, (run.path / file).read_text().splitlines())


def rows_of(run: Run, number: int) -> dict[str, dict[str, Any]]:
    found = [row for row in lines(run, "metrics.jsonl") if row["split"] == "client" and row["round"] == number]
    return {row["client"]: row for row in found}


def with_plain_peft(run: Run, adapter: Path, client: str) -> tuple[int, float]:
    """Correct predictions on a client's held-out examples, and the mean loss."""
    experiment = build_experiment(run.recipe)
    training = experiment.data.training
    assert training is not None
    labels = {"id2label": {0: "0", 1: "1"}}
    base = AutoModelForSequenceClassification.from_pretrained(run.path / "adapter" / "base", **labels)
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    correct, losses = 0, []
    with torch.inference_mode():
        for row in training.train.take(training.federation.holdout[client]):
            batch = experiment.data.processor.pad([row], return_tensors="pt")
            logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
            correct += int(logits.argmax(-1).item() == batch["labels"].item())
            losses.append(cross_entropy(logits, batch["labels"]).item())
    return correct, float(np.mean(losses))


def test_counts_are_summed_exactly() -> None:
    correct, examples = [1, 25, 0, 48, 7], [49, 49, 3, 49, 11]
    assert any(k / n * n != k for k, n in zip(correct, examples, strict=True)), "a case where floats round"
    found = [
        ClientFigures(str(i), n, {"loss": float(i), "accuracy": k / n})
        for i, (k, n) in enumerate(zip(correct, examples, strict=True))
    ]
    means = mean_over_clients([*found, ClientFigures("no loss", 9, {"accuracy": 1.0})])
    assert means["accuracy"] == (sum(correct) + 9) / (sum(examples) + 9)
    assert means["loss"] == sum(i * n for i, n in enumerate(examples)) / sum(examples)
    assert mean_over_clients([]) == {}


@pytest.mark.parametrize("kind", ["personal", "gossip"])
def test_each_client_measures_what_it_holds_and_plain_peft_loads_it(kind: str, runs: dict[str, Run]) -> None:
    run, rows = runs[kind], rows_of(runs[kind], 2)
    assert sorted(path.name for path in (run.path / "clients").iterdir()) == sorted(rows) == list("0123")
    for client, row in rows.items():
        correct, loss = with_plain_peft(run, run.path / "clients" / client / "adapter", client)
        assert row["accuracy"] == correct / row["examples"]
        # What is sent down is quantised, and the last round's message is not kept: the client measured a copy of it.
        assert row["loss"] == pytest.approx(loss, rel=1e-2 if kind == "personal" else 1e-5)


def test_the_figures_are_means_over_clients(runs: dict[str, Run]) -> None:
    for kind, by, number in (("personal", "clients", 2), ("gossip", "clients", 2), ("both", "server", 2)):
        summary, rows = runs[kind].summary, rows_of(runs[kind], number).values()
        assert (summary["final_by"], summary["evaluate_at"]) == (by, KINDS[kind]["evaluate"]["at"])
        total = sum(row["examples"] for row in rows)
        means = {name: sum(row[name] * row["examples"] for row in rows) / total for name in ("loss", "accuracy")}
        if by == "clients":
            assert {name: summary["final"][name] for name in means} == pytest.approx(means)
            assert summary["best"]["split"] == "clients"
        assert summary["clients_spread"]["worst_10_percent"] == min(row["accuracy"] for row in rows)
        assert len(rows_of(runs[kind], 0)) == len(rows) == 4
        assert not any(row["split"] == "test" for row in lines(runs[kind], "metrics.jsonl")) or by == "server"


def test_where_both_measure_the_test_set_decides_and_clients_agree_with_the_server(runs: dict[str, Run]) -> None:
    run = runs["both"]
    tests = [row for row in lines(run, "metrics.jsonl") if row["split"] == "test"]
    assert run.summary["final"]["accuracy"] == tests[-1]["accuracy"]
    for client, row in rows_of(run, 2).items():
        correct, loss = with_plain_peft(run, run.path / "adapter", client)
        assert (row["accuracy"], row["loss"]) == (correct / row["examples"], pytest.approx(loss, rel=1e-5))
    assert not (run.path / "clients").exists()


def test_personal_places_have_the_mean_of_the_clients(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["personal"]
    delivered = load(run.path / "adapter" / "adapter_model.safetensors")
    own = [load(run.path / "clients" / name / "adapter" / "adapter_model.safetensors") for name in "0123"]
    torch.testing.assert_close(delivered[HEAD], torch.stack([params[HEAD] for params in own]).mean(0))
    shared = delivered.keys() - {name for name in delivered if "classifier" in name}
    assert all(torch.equal(delivered[name], params[name]) for params in own for name in shared)
    start = build_experiment(run.recipe).start[HEAD]
    took_part = {client for line in lines(run, "wire.jsonl") if line["work"] == "train" for client in line["clients"]}
    assert [torch.equal(params[HEAD], start) for params in own] == [name not in took_part for name in "0123"]
    assert 0 < len(took_part) < 4
    exported = export(run.path)
    assert torch.equal(load(exported / "adapter_model.safetensors")[HEAD], delivered[HEAD])
    card = (run.path / "adapter" / "README.md").read_text()
    assert "with the mean of the clients in the personal places" in card


def test_evaluation_is_in_the_ledger_with_its_bytes(runs: dict[str, Run]) -> None:
    run = runs["personal"]
    found = list(lines(run, "wire.jsonl"))
    asked = [line for line in found if (line["work"], line["direction"]) == ("evaluate", "down")]
    told = [line for line in found if (line["work"], line["direction"]) == ("evaluate", "up")]
    assert [line["round"] for line in asked] == [0, 1, 2]
    assert all(line["clients"] == list("0123") for line in asked)
    assert len(told) == 3 * 4
    assert not any(line["tensors"] for line in told), "an answer has means and counts, no tensors"
    counted = run.summary["bytes"]
    for direction in ("down", "up"):
        of_it = [line for line in found if line["direction"] == direction]
        assert counted[direction] == sum(line["bytes"] * len(line["clients"]) for line in of_it)
    assert not any(line.get("work") == "evaluate" for line in lines(runs["gossip"], "wire.jsonl"))


def test_the_ledger_names_what_encoded_tensors_stand_for(runs: dict[str, Run]) -> None:
    shared = sorted(
        name for name in build_experiment(runs["personal"].recipe).contract.spec if "classifier" not in name
    )
    encoded = [line for line in lines(runs["personal"], "wire.jsonl") if line["tensors"]]
    assert {line["direction"] for line in encoded} == {"down", "up"}
    for line in encoded:
        assert line["names"] == shared
        assert not {tensor["name"] for tensor in line["tensors"]} & set(shared)
    assert not any("names" in line for line in lines(runs["both"], "wire.jsonl"))


@pytest.mark.parametrize("kind", KINDS)
def test_check_foretells_the_bytes(kind: str, runs: dict[str, Run]) -> None:
    told, summary = plan(runs[kind].recipe)["bytes"], runs[kind].summary["bytes"]
    assert told["total"] == pytest.approx(summary["down"] + summary["up"], rel=0.03)
    sizes = {
        line["direction"]: line["bytes"] for line in lines(runs[kind], "wire.jsonl") if line.get("work") == "train"
    }
    if sizes:
        assert told["per_client_down"] == pytest.approx(sizes["down"], rel=0.03)
        assert told["per_client_up"] == pytest.approx(sizes["up"], rel=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_says_it(kind: str, runs: dict[str, Run]) -> None:
    text = write_report(runs[kind].path).read_text()
    assert ("Accuracy, mean over clients" in text) == (kind != "both")
    assert ("gossip" in text) == (kind == "gossip")
    assert "Worst 10 %" in text
    card = (runs[kind].path / "adapter" / "README.md").read_text()
    assert ("This one is the mean over all clients." in card) == (kind == "gossip")
    assert ("Mean over clients, weighted" in card) == (kind != "both"), "of the figures"


def test_with_all_checkpoints_a_run_goes_on_from_any_with_the_clients_state_of_then(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(runs["personal"].path, tmp_path / "copy"))
    adapters = sorted(copy.glob("**/adapter_model.safetensors"))
    before = [path.read_bytes() for path in adapters]
    shutil.rmtree(copy / "checkpoints" / "round-0002")
    (copy / "report.html").unlink()
    assert fedfm.resume(copy).summary["rounds"] == 2
    assert len(adapters) == 5
    assert [path.read_bytes() for path in adapters] == before


def test_a_server_that_measures_personal_parts_says_so(tmp_path: Path) -> None:
    share = {"kind": "lora", "share": "not head"}
    at_server = build_experiment(load_recipe(small_recipe(tmp_path, tune=share)))
    (warning,) = at_server.warnings
    assert "the mean of the clients' personal parts (tune.share); evaluate.at=clients" in warning
    at_clients = build_experiment(load_recipe(small_recipe(tmp_path, tune=share, **AT_CLIENTS)))
    assert at_clients.warnings == []


@pytest.mark.parametrize(
    ("changes", "where", "reason"),
    [
        (["federation.holdout=0"], "evaluate.at", "set federation.holdout"),
        (["evaluate.clients=0"], "evaluate.clients", "evaluate.at=server"),
        (["evaluate.patience=1", "data.validation=0.2"], "evaluate.patience", "evaluate.at=both"),
        (["proxy.kind=offsite", "proxy.distill=null"], "evaluate.at", "`proxy.kind: offsite` excludes that"),
        (
            ["protocol.kind=buffered", "data.train=sites", "runtime.kind=flower"],
            "evaluate.at",
            "`protocol.kind: buffered`",
        ),
        (
            ["evaluate.at=both", "tune.share=head", "evaluate.patience=1", "data.validation=0.2"],
            "evaluate.patience",
            "share",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_both_keys(
    changes: list[str], where: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(small_recipe(tmp_path, **AT_CLIENTS), changes)
    assert any(problem.where == where and reason in problem.message for problem in caught.value.problems), caught.value


def test_s06_a_client_id_is_a_folder_whatever_it_is() -> None:
    names = ["a", "..", ".a", "a/b", "Klinik Süd", "x" * 500, "a%2Fb"]
    folders = [folder_name(name) for name in names]
    assert folders[:4] == ["a", "%2E.", "%2Ea", "a%2Fb"]
    assert len(set(folders)) == len(names)
    assert all(name.isascii() and "/" not in name and len(name) < 255 for name in folders)
