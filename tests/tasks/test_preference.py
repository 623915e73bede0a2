"""DPO against numbers that trl has computed, and against the formula."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from fedfm.clients import Evaluator
from fedfm.clients.references import with_references
from fedfm.data.examples import Examples
from fedfm.data.settings import DataSettings
from fedfm.data.sources import read_source
from fedfm.errors import DataError, FedfmError, RecipeError
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Full, Lora, Prompt, TuneSettings
from fedfm.tasks import Preference
from fedfm.tasks.preference import TIE

PAIRS = [
    {"prompt": "Name a colour", "chosen": "Red.", "rejected": "A dog, I think."},
    {"prompt": "Two and two?", "chosen": "That is four.", "rejected": "5"},
    {"prompt": "Say no", "chosen": "No", "rejected": "Yes"},
]
TRL_LOSS = 0.8141406178474426
TRL_NORMS = [0.2185178, 0.5567566, 0.3013478, 1.2312906, 0.2817145, 0.5078512, 0.4566649, 0.8969827]
TRL_NORMS += [0.3086595, 0.2500713, 0.4984182, 1.3587151, 0.1353138, 0.4188644, 0.3480612, 1.1125057]
"""Of trl 1.16.0: `DPOTrainer(beta=0.3).compute_loss` on a batch of `PAIRS`, and the norms of the gradients by name.

Model builtin:tiny-llama with LoRA (r 2) at `moved` values, reference at the start; prompts
``f"User:\\n{prompt}\\nAssistant:\\n"``.
"""


def rows_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def encoded(task: Preference, backbone: Backbone, path: Path, **settings: Any) -> Examples:
    data = DataSettings(train=str(path), **{"max_length": 64, **settings})
    source = read_source(str(path), "train", where="data.train", columns=task.columns(data))
    return task.encode(task.prepare(source, data), data, backbone.processor, None)


def attached(tune: TuneSettings, model: str = "tiny-llama") -> tuple[Backbone, Tunable]:
    backbone = load_backbone(ModelSettings(path=f"builtin:{model}"), AutoModelForCausalLM, seed=0)
    return backbone, tune.attach(backbone, task_type="CAUSAL_LM", seed=0)


def moved(tunable: Tunable) -> dict[str, Tensor]:
    """Values away from the start, the same on every machine."""
    steps = {name: torch.arange(value.numel()) for name, value in tunable.read().items()}
    start = tunable.read()
    return {name: start[name] + 0.1 * torch.sin(step.reshape(start[name].shape)) for name, step in steps.items()}


def evaluator_of(backbone: Backbone, tunable: Tunable, task: Preference, batch_size: int = 8) -> Evaluator:
    return Evaluator(
        tunable=tunable,
        family=backbone.family,
        task=task,
        processor=backbone.processor,
        metrics=tuple(task.metrics),
        batch_size=batch_size,
        seed=0,
        device=torch.device("cpu"),
    )


def batch_of(task: Preference, backbone: Backbone, tunable: Tunable, path: Path, **settings: Any) -> dict[str, Tensor]:
    """All pairs, compared with the model as initialised; the tunable has `moved` values afterwards."""
    evaluator = evaluator_of(backbone, tunable, task, batch_size=2)
    examples = with_references(evaluator, encoded(task, backbone, path, **settings), tunable.read())
    found = evaluator(examples)
    assert found["loss"] == pytest.approx(math.log(2), abs=1e-6)  # at the start nothing is preferred
    assert found["preference_accuracy"] == 0.5
    assert abs(found["margin"]) < TIE
    tunable.write(moved(tunable))
    return task.collate(backbone.processor, seed=0)(examples.take(range(len(examples))))


def test_loss_and_gradients_are_those_of_trl(tmp_path: Path) -> None:
    backbone, tunable = attached(Lora(r=2))
    task = Preference(beta=0.3)
    batch = batch_of(task, backbone, tunable, rows_file(tmp_path, PAIRS))
    losses, counts = task.losses(task.outputs(tunable.model, batch), batch)
    (losses.sum() / counts.sum()).backward()
    assert losses.mean().item() == pytest.approx(TRL_LOSS, abs=1e-5)
    norms = [parameter.grad.norm().item() for parameter in tunable.parameters.values() if parameter.grad is not None]
    assert norms == pytest.approx(TRL_NORMS, abs=1e-5)


def log_probability(model: Any, tokenizer: Any, prompt: str, response: str) -> float:
    """Of a response and its end token, from a plain forward pass over one conversation."""
    asked = tokenizer(f"User:\n{prompt}\nAssistant:\n")["input_ids"]
    ids = torch.tensor([asked + tokenizer(response, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]])
    chances = model(input_ids=ids).logits.double().log_softmax(-1)[0]
    return sum(chances[place - 1, ids[0, place]].item() for place in range(len(asked), ids.shape[1]))


@torch.no_grad()
@pytest.mark.parametrize(("tune", "model"), [(Full(), "tiny-gpt2"), (Lora(r=2), "tiny-qwen3")], ids=["full", "lora"])
def test_the_loss_is_the_formula(tune: TuneSettings, model: str, tmp_path: Path) -> None:
    backbone, tunable = attached(tune, model)
    plain, tokenizer = tunable.model, backbone.processor

    def ratios() -> list[float]:
        chances = [
            [log_probability(plain, tokenizer, r["prompt"], r[side]) for side in ("chosen", "rejected")] for r in PAIRS
        ]
        return [chosen - rejected for chosen, rejected in chances]

    reference, task = ratios(), Preference(beta=0.2)
    batch = batch_of(task, backbone, tunable, rows_file(tmp_path, PAIRS))
    outputs = task.outputs(plain, batch)
    changes = [now - before for now, before in zip(ratios(), reference, strict=True)]
    expected = [math.log1p(math.exp(-0.2 * change)) for change in changes]
    assert task.losses(outputs, batch)[0].tolist() == pytest.approx(expected, abs=1e-4)
    scores = task.score(task.measure(outputs, batch), 0.0)
    assert scores["preference_accuracy"] == pytest.approx(sum(change > 0 for change in changes) / 3)
    assert scores["margin"] == pytest.approx(0.2 * sum(changes) / 3, abs=1e-4)


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user" if number % 2 == 0 else "assistant", "content": text} for number, text in enumerate(texts)]


FORMS: list[dict[str, Any]] = [
    {"prompt": "Say no", "chosen": "No", "rejected": "Yes"},
    {"question": "Say no", "chosen": said("", "No")[1:], "rejected": said("", "Yes")[1:]},
    {"prompt": said("Say no"), "chosen": said("", "No")[1:], "rejected": said("", "Yes")[1:]},
    {"chosen": said("Say no", "No"), "rejected": said("Say no", "Yes")},
    {"prompt": "Say no", "chosen": said("Say no", "No"), "rejected": said("Say no", "Yes")},
    {
        "chosen": [{"from": "human", "value": "Say no"}, {"from": "gpt", "value": "No"}],
        "rejected": [{"from": "human", "value": "Say no"}, {"from": "gpt", "value": "Yes"}],
    },
]


def test_formats_of_one_pair_are_one_example(tmp_path: Path) -> None:
    backbone, _ = attached(Lora(r=2))
    found = encoded(Preference(), backbone, rows_file(tmp_path, FORMS))
    rows = found.take(range(len(FORMS)))
    assert all(row == rows[0] for row in rows)
    tokenizer = backbone.processor
    learnt = [token for token, flag in zip(rows[0]["input_ids"], rows[0]["learned"], strict=True) if flag]
    assert tokenizer.decode(learnt) == "No</s>Yes</s>"  # type: ignore[operator]
    shown = Preference().show(rows[0], tokenizer, None)
    assert [token.id for token in shown.tokens if token.learned] == learnt


def test_a_pair_whose_response_is_cut_off_is_left_out(tmp_path: Path) -> None:
    backbone, _ = attached(Lora(r=2))
    long = {"prompt": "x" * 60, "chosen": "No", "rejected": "Yes"}
    found = encoded(Preference(), backbone, rows_file(tmp_path, [*PAIRS, long]))
    assert len(found) == len(PAIRS)
    assert "have their whole response after 64 tokens" in found.notes[0]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "Say no", "chosen": "No"}, "no column `rejected`"),
        ({"prompt": "Say no", "chosen": "No", "rejected": " "}, "row 1 has no response in column `rejected`"),
        ({"prompt": "Say no", "chosen": "No", "rejected": "No"}, "one response as the chosen and the rejected"),
        ({"chosen": "No", "rejected": "Yes"}, "has no prompt before `chosen`"),
        ({"prompt": "a", "question": "b", "chosen": "No", "rejected": "Yes"}, "has `prompt` and `question`"),
        ({"chosen": said("Say no", "No"), "rejected": said("Say yes", "Yes")}, "differ before their last response"),
        ({"chosen": said("Say no", "No"), "rejected": said("Say no")}, "no response at the end of `rejected`"),
        ({"chosen": said("Say no", "No"), "rejected": []}, "no response in column `rejected`"),
        ({"prompt": "Why?", "chosen": said("Say no", "No"), "rejected": said("Say no", "Yes")}, "is not in the conv"),
    ],
)
def test_what_is_no_pair_is_refused_with_the_row(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    backbone, _ = attached(Lora(r=2))
    with pytest.raises(FedfmError, match=says) as caught:
        encoded(Preference(), backbone, rows_file(tmp_path, [row]))
    assert isinstance(caught.value, RecipeError | DataError)
    assert "data.preference" in str(caught.value)


def test_tunables_that_join_the_conversations_of_a_pair_are_refused() -> None:
    backbone, tunable = attached(Prompt(num_virtual_tokens=2))
    with pytest.raises(RecipeError, match=r"attend to each other.*choose another model"):
        Preference().check_model(tunable, backbone.processor, "a model", DataSettings(train="x"))
