"""The benchmark of FedPFT: its parts of a set, choices on validation data, statistics, and stored earlier results."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fedfm import load_recipe

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Any:
    """The benchmark's modules, which import one another by their bare names."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    names = ("data", "methods", "jobs", "choices", "statistics", "tables", "earlier", "beyond")
    yield {name: importlib.import_module(f"fedpft_{name}") for name in names}
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


@pytest.fixture
def results_folder(modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of ``benchmarks/results``."""
    for module in (*modules.values(), sys.modules["ledger"]):
        if hasattr(module, "RESULTS"):
            monkeypatch.setattr(module, "RESULTS", tmp_path)
    return tmp_path


def small(modules: dict[str, ModuleType], ladder: tuple[int, ...] = (5, 10)) -> Any:
    """Two sets, and the numbers of rounds that are tried."""
    methods = modules["methods"]
    subject = modules["choices"].Subject(**{**vars(methods.TEXT), "sets": ("trec6", "sst2")})
    return subject, methods.Scale(rounds=ladder)


def result(
    accuracy: float, before: float | None = None, distilled: float | None = None, rounds: int = 5
) -> dict[str, Any]:
    """A validation result whose accuracy before the last fifth is ``before``."""
    curve = {str(rounds - rounds // 5): accuracy if before is None else before, str(rounds): accuracy}
    return {"plugged": accuracy, "distilled": distilled, "curve": curve}


def answered(protocol_of: Any, results: dict[str, Any], wanted: Any, answer: Any) -> Any:
    """What ``wanted`` gives once all runs that it asks for have the results that ``answer`` gives; and those runs."""
    asked = []
    choices = sys.modules["fedpft_choices"]
    while True:
        try:
            return wanted(protocol_of(results)), asked
        except choices.MissingRuns as missing:
            jobs = {job.key: job for job in missing.jobs}
        assert jobs
        asked += jobs.values()
        results |= {key: answer(job) for key, job in jobs.items()}


@pytest.mark.parametrize("count", [10, 291, 4291, 100_000])
def test_no_row_is_both_trained_and_validated_on(modules: dict[str, ModuleType], count: int) -> None:
    data = modules["data"]
    trained, validated = data.split_rows(count, data.Sizes(train=4000))
    assert len(trained) == min(4000, count * 9 // 10)
    assert 0 < len(validated) <= 800
    assert not set(trained) & set(validated)
    again, _ = data.split_rows(count, data.Sizes(train=4000))
    assert (trained == again).all()


def test_a_run_on_validation_data_gets_no_test_data(
    modules: dict[str, ModuleType], results_folder: Path, tmp_path: Path
) -> None:
    rows = [{"text": f"question {number}", "label": number % 6} for number in range(40)]
    folder = tmp_path / "sets"
    for name in ("trec6", "c4_wiki_demo", "wikitext2"):
        (folder / name).mkdir(parents=True)
        for split in ("train", "test"):
            with gzip.open(folder / name / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
                file.write("".join(json.dumps(row | {"text": f"{split} {row['text']}"}) + "\n" for row in rows))
    jobs = modules["jobs"]
    job = jobs.Job("trec6", "fedpft", 100, 1e-3, 5, "validation")
    recipe = jobs.located(job, folder, tmp_path / "run")
    read = load_recipe(recipe)
    text = {split: Path(recipe["data"][split]).read_text(encoding="utf-8") for split in ("train", "test")}
    assert "test question" not in text["train"] + text["test"]
    assert read.data.validation is None
    assert not set(text["train"].splitlines()) & set(text["test"].splitlines())
    tested = jobs.located(jobs.Job("trec6", "fedpft", 0, 1e-3, 5, "test"), folder, tmp_path / "run")
    assert "train question" not in Path(tested["data"]["test"]).read_text(encoding="utf-8")


def test_every_method_of_every_table_is_a_valid_recipe_with_a_proxy_of_its_seed(modules: dict[str, ModuleType]) -> None:
    jobs, tables = modules["jobs"], modules["tables"]
    proxies: dict[str, set[str]] = {}
    for cell in tables.cells_of(tables.TABLES):
        for method in modules["methods"].FEDOT_FORMS if cell.method == "fedot" else (cell.method,):
            job = jobs.Job(cell.data, method, cell.seed, 1e-3, 15, "test", cell.partition, cell.size)
            load_recipe(job.recipe() | {"run_dir": "run"})
            if job.proxy["kind"] != "none":
                proxies.setdefault(job.proxy_key, set()).add(str(cell.seed))
    assert all(len(seeds) == 1 for seeds in proxies.values())


def test_every_idea_is_a_valid_recipe_on_validation_data(modules: dict[str, ModuleType]) -> None:
    beyond, scale = modules["beyond"], modules["methods"].Scale()
    keys = set()
    for changes in [*beyond.NEURONS.values(), *beyond.ALIGNMENT.values()]:
        job = beyond.job(changes, "trec6", 0, scale, None)
        recipe = load_recipe(job.recipe() | {"run_dir": "run"})
        assert recipe.data.test == "validation"
        keys.add(job.key)
    assert len(keys) == len(beyond.NEURONS) + len(beyond.ALIGNMENT) - 1, "FedPFT itself is in both tables"


def test_rounds_end_where_the_full_model_has_converged(modules: dict[str, ModuleType], results_folder: Path) -> None:
    subject, scale = small(modules)
    choices = modules["choices"]

    def answer(job: Any) -> dict[str, Any]:
        if job.data == "sst2":
            return result(0.8, 0.799)
        return result(0.9, 0.8, rounds=job.rounds)  # gains 10 points over the last fifth

    found = {}
    for data in subject.sets:
        results: dict[str, Any] = {}
        found[data], asked = answered(
            lambda kept: choices.Protocol(kept, subject, scale, "choices"),
            results,
            lambda protocol, data=data: protocol.rounds(data, "dirichlet 5"),
            answer,
        )
        assert {(job.method, job.partition, job.judged, job.seed) for job in asked} == {
            ("full", "iid", "validation", choices.TUNING_SEED)
        }
    assert found == {"trec6": 10, "sst2": 5}


def test_the_best_form_rate_and_plug_in_are_taken_and_do_not_change(
    modules: dict[str, ModuleType], results_folder: Path
) -> None:
    subject, scale = small(modules, (5,))
    choices = modules["choices"]
    results: dict[str, Any] = {}

    def answer(job: Any) -> dict[str, Any]:
        best = job.method == "fedot r 24" and job.learning_rate == 5e-3
        return result(0.5, distilled=0.7 if best else 0.6)

    def protocol_of(kept: dict[str, Any]) -> Any:
        return choices.Protocol(kept, subject, scale, "choices")

    chosen, asked = answered(protocol_of, results, lambda protocol: protocol.choice("fedot", "iid", "matched"), answer)
    assert (chosen.method, chosen.learning_rate, chosen.plug) == ("fedot r 24", 5e-3, "distilled")
    tries = [(job.method, job.learning_rate) for job in asked if job.data == "sst2"]
    assert {method: sum(method == name for name, _ in tries) for method, _ in tries} == {
        "full": 1,
        **dict.fromkeys(modules["methods"].FEDOT_FORMS, 4),
    }
    assert all(job.judged == "validation" for job in asked)
    for key in results:
        results[key] = result(0.9)
    assert protocol_of(results).choice("fedot", "iid", "matched") == chosen, "later results change no choice"
    assert protocol_of({}).choice("fedot", "iid", "matched") == chosen
    tested = protocol_of({}).job(choices.Cell("sst2", "fedot", "dirichlet 10", "matched", 0))
    assert (tested.method, tested.learning_rate, tested.judged) == ("fedot r 24", 5e-3, "test")


def test_pending_runs_are_the_tuning_first(modules: dict[str, ModuleType], results_folder: Path) -> None:
    subject, scale = small(modules)
    choices = modules["choices"]
    protocol = choices.Protocol({}, subject, scale, "choices")
    cells = [choices.Cell(data, "fedpft", "iid", "matched", seed) for seed in (0, 1) for data in subject.sets]
    jobs = list(choices.pending({"MiniLM": protocol}, cells))
    assert {job.data for job in jobs} == set(subject.sets)
    assert all(job.judged == "validation" and job.method == "full" for job in jobs)
    assert len({job.key for job in jobs}) == len(jobs)


def test_tables_say_n_errors_choices_goals_and_what_is_missing(
    modules: dict[str, ModuleType], results_folder: Path
) -> None:
    tables, choices, statistics = modules["tables"], modules["choices"], modules["statistics"]
    shown = tables.limited([*tables.TABLES[:1], tables.TABLES[-2]], 2, ["sst2", "trec6"])
    scale = modules["methods"].Scale(rounds=(5,))
    accuracies = {"full": 0.9, "fedpft": 0.89, "packed": 0.87}

    def answer(job: Any) -> dict[str, Any]:
        right = round(100 * accuracies.get(job.method, 0.8)) + job.seed % 2
        bits = statistics.packed(np.arange(100) < right)
        found = result(right / 100, distilled=right / 100 if job.proxy["kind"] != "none" else None)
        costs = dict.fromkeys(("bytes_up", "bytes_down", "first_download", "client_parameters", "seconds"), 1e6)
        costs |= {"block_parameters": None, "disclosed": None, "proxy_accuracy": 0.5, "majority": 0.5}
        return found | costs | {"correct": {"plugged": bits, "distilled": bits}}

    cells, results = list(tables.cells_of(shown)), {}
    while True:
        protocol = choices.Protocol(results, shown[0].subject, scale, "choices")
        if not (jobs := list(choices.pending({"MiniLM": protocol}, cells))):
            break
        results |= {job.key: answer(job) for job in jobs}
    found = tables.Measurements({"MiniLM": protocol})
    text = "\n".join(tables.everything(found, shown))
    assert "no proxy (FedPETuning) − FedPFT: +1.00 (seeds ± 0.00, sets ± 0.00) [" in text
    assert "n = 4 pairs (sst2 +1.0, trec6 +1.0)" in text
    assert "90.5 ± 0.7" in text
    assert "[x] Table 1, IID: gap to the full model ≤ 1.5 points: +1.00" in text
    assert "[ ] Table 1, IID, half the bytes (proxy.bits): gap to the full model ≤ 2.5 points: +3.00" in text
    assert "[x] Table 1, IID: lead over the best FedOT > 2 standard errors" in text
    lost = next(key for key in results if "fedpft" in key and "on test" in key)
    del results[lost]
    text = "\n".join(tables.everything(found, shown))
    assert "(n = 1)" in text
    assert "[ ] Table 1, IID: gap to the full model ≤ 1.5 points: 3 of 4 pairs of runs so far" in text
    assert len(found.missing(cells)) == 1


def test_bits_of_examples_survive_as_text(modules: dict[str, ModuleType]) -> None:
    correct = np.random.default_rng(0).random(399) < 0.9
    text = modules["statistics"].packed(correct)
    assert (modules["statistics"].unpacked(text) == correct).all()
    assert len(text) < 80


def test_a_difference_says_what_one_set_contributes(modules: dict[str, ModuleType]) -> None:
    pairs = {("a", 0): 1.0, ("a", 1): 3.0, ("b", 0): 20.0, ("b", 1): 16.0, ("c", 0): 0.0, ("c", 1): -2.0}
    gap = modules["statistics"].Difference(pairs, {})
    assert gap.by_set == {"a": 2.0, "b": 18.0, "c": -1.0}
    assert gap.mean == pytest.approx(19 / 3)
    assert (gap.largest, gap.without_largest) == ("b", 0.5)
    assert gap.error_of_seeds == pytest.approx(2 / 3)  # seeds' means: 7 and 17/3
    assert gap.error_of_sets == pytest.approx(np.std([2, 18, -1], ddof=1) / 3**0.5)


def test_the_bootstrap_is_paired_and_covers_seeds_and_examples(modules: dict[str, ModuleType]) -> None:
    generator = np.random.default_rng(1)

    def interval(shift: float, spread: float, seeds: int = 5, count: int = 400) -> tuple[float, float]:
        examples = {
            ("a", seed): (generator.random(count) < shift + spread * (seed - 2)).astype(np.int8)
            for seed in range(seeds)
        }
        pairs = {place: 100 * float(values.mean()) for place, values in examples.items()}
        gap = modules["statistics"].Difference(pairs, examples)
        low, high = gap.interval()
        assert low <= gap.mean <= high
        return low, high

    same = {("a", 0): np.zeros(50, np.int8), ("a", 1): np.zeros(50, np.int8)}
    assert modules["statistics"].Difference(dict.fromkeys(same, 0.0), same).interval() == (0.0, 0.0)
    narrow, wide = interval(0.3, 0.0), interval(0.3, 0.1)
    assert narrow[1] - narrow[0] < wide[1] - wide[0], "seeds that differ make the interval wider"
    assert narrow[1] - narrow[0] > 100 * 2 * 1.96 * (0.21 / 400 / 5) ** 0.5 * 0.8, "examples alone have an error too"


def test_all_earlier_results_are_read_and_printed(modules: dict[str, ModuleType]) -> None:
    earlier = modules["earlier"]
    for name in earlier.LEDGERS:
        results = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text(encoding="utf-8"))["results"]
        found = earlier.by_setting(results)
        assert sum(len(seeds) for sets in found.values() for seeds in sets.values()) == len(results)
    lines = list(earlier.earlier_tables())
    dropped = next(line for line in lines if "dirichlet 1, full, matched" in line and "476dea8" in line)
    assert "newsgroups20" not in dropped
    assert dropped.rstrip().endswith("15")
    with pytest.raises(ValueError, match="not the key of an earlier result"):
        earlier.by_setting({"something else": {}})
