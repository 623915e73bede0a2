"""LoRA and DoRA against the formulas of their papers, and the refusals of their settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from fedfm.errors import RecipeError
from fedfm.models.tunables import Dora, Lora
from tests.models.cases import batch, load, logits

LAYER = "base_model.model.bert.encoder.layer.0.attention.self.query"


def attach(settings: Lora | Dora, name: str = "tiny-bert", task: str = "text"):
    return settings.attach(load(name, task), task_type="SEQ_CLS" if task == "text" else None, seed=0)


def refusal(settings: Lora, name: str = "tiny-bert", task: str = "text") -> str:
    with pytest.raises(RecipeError) as caught:
        attach(settings, name, task)
    (problem,) = caught.value.problems
    return str(problem)


def test_lora_starts_as_the_backbone() -> None:
    backbone = load("tiny-bert", "text")
    inputs = batch(backbone)
    before = logits(backbone.model, inputs)
    tunable = Lora().attach(backbone, task_type="SEQ_CLS", seed=0)
    assert torch.equal(logits(tunable.model, inputs), before)


def test_lora_adds_alpha_over_r_times_b_a() -> None:
    """arXiv:2106.09685, eq. (3), with α/r = 6/4."""
    tunable = attach(Lora(r=4, lora_alpha=6))
    weight = load("tiny-bert", "text").model.bert.encoder.layer[0].attention.self.query.weight
    params = tunable.read()
    torch.manual_seed(0)
    params[f"{LAYER}.lora_B.weight"] = torch.randn(16, 4)
    tunable.write(params)
    a, b = params[f"{LAYER}.lora_A.weight"], params[f"{LAYER}.lora_B.weight"]
    assert a.shape == (4, 16)
    merged = tunable.merged().bert.encoder.layer[0].attention.self.query.weight
    torch.testing.assert_close(merged, weight + 6 / 4 * b @ a)


def test_dora_trains_the_lengths_of_the_directions() -> None:
    """arXiv:2402.09353, eq. (5): m · (W + α/r B A) / ‖W + α/r B A‖, the norm of each output's row in torch's layout."""
    tunable = attach(Dora(r=4, lora_alpha=6))
    weight = load("tiny-bert", "text").model.bert.encoder.layer[0].attention.self.query.weight
    params = tunable.read()
    torch.testing.assert_close(params[f"{LAYER}.lora_magnitude_vector"], weight.norm(dim=1))
    torch.manual_seed(0)
    b, m = torch.randn(16, 4), torch.rand(16)
    params |= {f"{LAYER}.lora_B.weight": b, f"{LAYER}.lora_magnitude_vector": m}
    tunable.write(params)
    moved = weight + 6 / 4 * b @ params[f"{LAYER}.lora_A.weight"]
    expected = m[:, None] * moved / moved.norm(dim=1, keepdim=True)
    torch.testing.assert_close(tunable.merged().bert.encoder.layer[0].attention.self.query.weight, expected)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("attention", 2 * 4 * 2 * (16 + 16)),  # layers · matrices · r · (in + out)
        ("ffn", 2 * 2 * 2 * (16 + 32)),
        ("all", 2 * (4 * 2 * (16 + 16) + 2 * 2 * (16 + 32))),
        (r".*layer\.1\..*\.(query|value)", 1 * 2 * 2 * (16 + 16)),
        (["query", "intermediate.dense"], 2 * (2 * (16 + 16) + 2 * (16 + 32))),
    ],
)
def test_targets_choose_matrices(targets: str | list[str], expected: int) -> None:
    params = attach(Lora(r=2, target_modules=targets)).read()
    assert sum(tensor.numel() for name, tensor in params.items() if "lora" in name) == expected


@pytest.mark.parametrize("targets", ["nothing.*", "query", ["query", "qeury"], []])
def test_b09_targets_that_match_nothing_are_refused_with_what_there_is(targets: str | list[str]) -> None:
    said = refusal(Lora(target_modules=targets))
    assert said.startswith("tune.target_modules: no module of builtin:tiny-bert matches")
    assert "attention, ffn, all (of every block), or: bert.encoder.layer.N.attention.self.query, " in said
    if "qeury" in targets:
        assert "matches `qeury`;" in said


def test_targets_that_are_not_linear_are_refused() -> None:
    said = refusal(Lora(target_modules=r".*layer\.0\.attention.*"))
    assert said.startswith("tune.target_modules: not linear: bert.encoder.layer.0.attention, ")


def test_a_broken_regular_expression_is_refused() -> None:
    assert "tune.target_modules: `(` is not a regular expression" in refusal(Lora(target_modules="("))


def test_the_head_is_no_target() -> None:
    assert "no module" in refusal(Lora(target_modules=["classifier"]))


def test_b09_a_matrix_tied_to_the_embeddings_is_no_target() -> None:
    """Merged, it would change the embeddings too."""
    assert "tied to the embeddings, which would also change: lm_head" in refusal(
        Lora(target_modules=["lm_head"]), "tiny-llama", "causal"
    )


def test_b09_a_rank_above_a_matrix_is_refused_with_both_numbers() -> None:
    said = refusal(Lora(r=17))
    assert said == ("tune.r: rank 17 exceeds the matrix bert.encoder.layer.0.attention.self.query (16 x 16)")


def test_a_head_that_would_stay_random_is_refused() -> None:
    said = refusal(Lora(head=False))
    assert said.startswith("tune.head: builtin:tiny-bert has no trained head for this task (classifier.bias")


def test_without_a_new_head_a_language_model_trains_the_adapter_alone() -> None:
    for head in (True, False):
        params = Lora(head=head).attach(load("tiny-gpt2", "causal"), task_type="CAUSAL_LM", seed=0).read()
        assert all("lora" in name for name in params)


@pytest.mark.parametrize(
    "settings", [{"r": 0}, {"lora_alpha": 0}, {"lora_dropout": 1.0}, {"r": "8"}, {"rank": 8}, {"target_modules": None}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Lora(**settings)


def test_the_config_is_written_in_order_whatever_the_hash_seed(tmp_path: Path) -> None:
    """peft keeps targets in a set, whose order changes from process to process."""
    backbone = load("tiny-bert", "text")
    Lora(target_modules="all").attach(backbone, task_type="SEQ_CLS", seed=0).save(tmp_path, backbone.processor)
    targets = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert len(targets) == 6
    assert targets == sorted(targets)
