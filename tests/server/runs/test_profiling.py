"""A profiled run reports where its time went; its result is that of any other run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.clients import gemm_peak
from fedfm.clients.profile import PHASES, Profile, phase, profiling
from fedfm.recipe import load_recipe
from fedfm.runtimes.processes import can_fork
from tests.small import small_recipe


def played(folder: Path, name: str, *, profile: bool, **runtime: Any) -> fedfm.Run:
    recipe = small_recipe(folder, runtime=runtime) | {"run_dir": str(folder / name)}
    return fedfm.run(load_recipe(recipe), profile=profile)


@pytest.mark.parametrize(
    "runtime",
    [
        {"stack": 3},
        {"stack": "off"},
        pytest.param(
            {"stack": 1, "processes": 2}, marks=pytest.mark.skipif(not can_fork(), reason="this system cannot fork")
        ),
    ],
)
def test_every_phase_and_every_token_is_booked(tmp_path: Path, runtime: dict[str, Any]) -> None:
    run = played(tmp_path, "profiled", profile=True, **runtime)
    profile = json.loads((run.path / "profile.json").read_text())
    assert all(profile["training"][name] > 0 for name in PHASES)
    assert profile["processes"] == runtime.get("processes", 1)
    assert profile["seconds"]["total"] >= profile["seconds"]["train"] > 0
    assert 0 < profile["share"] < 1
    report = (run.path / "report.html").read_text()
    assert 'id="time"' in report
    assert "profile.json" in report
    examples = load_recipe(run.folder.recipe)
    plain = played(tmp_path, "plain", profile=False, **runtime)
    assert not (plain.path / "profile.json").exists()
    assert 'id="time"' not in (plain.path / "report.html").read_text()
    assert (plain.path / "wire.jsonl").read_text() == (run.path / "wire.jsonl").read_text()
    assert examples.runtime == load_recipe(plain.folder.recipe).runtime


def test_tokens_are_the_same_however_clients_are_trained(tmp_path: Path) -> None:
    counted = [
        json.loads((played(tmp_path, str(stack), profile=True, stack=stack).path / "profile.json").read_text())
        for stack in (1, 3, "off")
    ]
    assert len({profile["tokens"] for profile in counted}) == 1
    assert counted[2]["operations"] > counted[0]["operations"]  # the plain loop computes the whole last block


def test_nothing_is_booked_unless_somebody_profiles() -> None:
    profile = Profile()
    with phase("forward"):
        pass
    with profiling(profile), phase("forward"):
        pass
    before = profile.seconds["forward"]
    assert before > 0
    with phase("forward"):
        pass
    assert profile.seconds["forward"] == before


def test_what_was_booked_elsewhere_adds_up() -> None:
    whole, part = Profile(), Profile(tokens=3)
    part.seconds["data"] = 1.5
    whole.add(part.take())
    whole.add(part.take())
    assert whole.tokens == 3
    assert whole.seconds["data"] == 1.5


def test_the_peak_is_a_rate_of_this_machine() -> None:
    import torch

    assert gemm_peak(64, 64, 64, torch.float32, torch.device("cpu"), 1) > 1e6
