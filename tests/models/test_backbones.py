"""Loading: a backbone is frozen and complete; faulty ones are refused before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    GPT2Config,
)
from transformers.utils import logging

from fedfm.errors import DataError, RecipeError
from fedfm.models import builtin
from fedfm.models.backbones import load_backbone, load_processor
from fedfm.models.builtin import write_random_model
from fedfm.models.byte_tokenizer import byte_tokenizer
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables import Head, Lora, Prefix, Prompt
from fedfm.params import digest
from tests.models.cases import CASES, LABELS, TASKS, Case, batch, load, logits


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    builtin.write_random_model("tiny-bert", tmp_path)
    return tmp_path


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def settings(folder: Path) -> ModelSettings:
    return ModelSettings(path=str(folder))


def refusal(folder: Path | str, auto_class: Any = AutoModelForSequenceClassification) -> str:
    with pytest.raises(RecipeError) as caught:
        load_backbone(ModelSettings(path=str(folder)), auto_class, seed=0)
    (problem,) = caught.value.problems
    return str(problem)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_backbone_is_frozen_on_the_cpu_and_knows_its_labels(case: Case) -> None:
    backbone = load(*case)
    model = backbone.model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {(parameter.device.type, parameter.dtype) for parameter in model.parameters()} == {("cpu", torch.float32)}
    assert model.config.name_or_path == backbone.name == f"builtin:{case[0]}"
    if TASKS[case[1]].labels:
        assert model.config.id2label == dict(enumerate(LABELS))
        assert model.config.label2id == {label: index for index, label in enumerate(LABELS)}
        assert logits(model, batch(backbone)).shape[-1] == model.config.num_labels == 3
        assert backbone.new_head


def test_what_is_new_derives_from_the_seed_and_the_rest_from_the_checkpoint() -> None:
    first, again, other = (load_fresh(seed) for seed in (0, 0, 1))
    assert digest(first) == digest(again)
    assert {name for name in first if not torch.equal(first[name], other[name])} == {"classifier.weight"}


def load_fresh(seed: int) -> dict[str, torch.Tensor]:
    torch.rand(3)  # the global generator decides nothing
    backbone = load_backbone(
        ModelSettings(path="builtin:tiny-bert"), AutoModelForSequenceClassification, seed=seed, labels=LABELS
    )
    return dict(backbone.model.state_dict())


def test_loading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    load_backbone(ModelSettings(path="builtin:tiny-vit"), AutoModelForImageClassification, seed=0, labels=LABELS)
    assert torch.equal(torch.rand(1), expected)


def test_loading_is_quiet_and_restores_what_was_set(capfd: pytest.CaptureFixture[str]) -> None:
    before = (logging.WARNING, True)
    logging.set_verbosity(logging.WARNING)
    logging.enable_progress_bar()
    for name, case in CASES:
        load_backbone(ModelSettings(path=f"builtin:{name}"), TASKS[case].auto_class, seed=0)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


# heads


def test_a_trained_head_is_kept(tmp_path: Path) -> None:
    trained = load("tiny-bert", "text", seed=5)
    trained.model.save_pretrained(tmp_path)
    trained.processor.save_pretrained(tmp_path)
    again = load_backbone(settings(tmp_path), AutoModelForSequenceClassification, seed=0, labels=LABELS)
    assert (again.new_head, again.other_labels, again.head) == ((), (), ("classifier",))
    assert digest(again.model.state_dict()) == digest(trained.model.state_dict())
    assert Lora(head=False).attach(again, task_type="SEQ_CLS", seed=0).parameters


def test_a_head_for_another_number_of_classes_is_replaced(tmp_path: Path) -> None:
    trained = load("tiny-roberta", "text")
    trained.model.save_pretrained(tmp_path)
    trained.processor.save_pretrained(tmp_path)
    again = load_backbone(settings(tmp_path), AutoModelForSequenceClassification, seed=0, labels=["x", "y"])
    assert again.new_head == ("classifier.out_proj.bias", "classifier.out_proj.weight")
    assert logits(again.model, batch(again)).shape == (2, 2)


def test_a_head_for_other_classes_of_the_same_number_must_be_trained(tmp_path: Path) -> None:
    trained = load("tiny-bert", "text")
    trained.model.save_pretrained(tmp_path)
    trained.processor.save_pretrained(tmp_path)
    again = load_backbone(settings(tmp_path), AutoModelForSequenceClassification, seed=0, labels=["b", "a", "c"])
    assert (again.new_head, again.other_labels) == ((), ("a", "b", "c"))
    with pytest.raises(RecipeError, match=r"tune\.head: .* other labels than the data's \(a, b, c\)"):
        Lora(head=False).attach(again, task_type="SEQ_CLS", seed=0)


def test_a_pooler_that_the_checkpoint_lacks_belongs_to_the_head(bert: Path) -> None:
    """Frozen at random it would be another one wherever the adapter is loaded."""
    edit_weights(bert, lambda weights: {name: weights[name] for name in weights if "pooler" not in name})
    backbone = load_backbone(settings(bert), AutoModelForSequenceClassification, seed=0, labels=LABELS)
    assert backbone.head == ("classifier", "bert.pooler")
    trained = Head().attach(backbone, task_type="SEQ_CLS", seed=0).parameters
    assert set(trained) == {
        f"{head}.{kind}" for head in ("classifier", "bert.pooler.dense") for kind in ("weight", "bias")
    }


def test_a_pooler_that_the_task_does_not_use_may_be_missing(bert: Path) -> None:
    edit_weights(bert, lambda weights: {name: weights[name] for name in weights if "pooler" not in name})
    assert load_backbone(settings(bert), AutoModelForMaskedLM, seed=0).head == ("cls.predictions.transform",)


def test_a_new_language_head_is_trained_but_not_its_tied_matrix() -> None:
    backbone = load("tiny-bert", "masked")
    assert "cls.predictions.transform.dense.weight" in backbone.new_head
    assert backbone.model.get_output_embeddings().weight is backbone.model.get_input_embeddings().weight
    trained = Lora().attach(backbone, task_type=None, seed=0).parameters
    assert [name for name in trained if "lora" not in name] == [
        f"base_model.model.cls.predictions.transform.{name}"
        for name in ("LayerNorm.bias", "LayerNorm.weight", "dense.bias", "dense.weight")
    ]


# refused


def test_weights_that_are_missing_outside_the_head_are_refused(bert: Path) -> None:
    edit_weights(bert, lambda weights: {name: weights[name] for name in weights if ".1." not in name})
    said = refusal(bert)
    assert said.startswith(f"model.path: the checkpoint of {bert} lacks weights of the model: bert.encoder.layer.1.")
    assert "and 13 more" in said


def test_weights_of_blocks_that_the_config_does_not_have_are_said(bert: Path) -> None:
    """A config that was edited, or is another model's, would cut layers off in silence."""
    assert load_backbone(settings(bert), AutoModelForSequenceClassification, seed=0).warnings == ()
    edit_config(bert, num_hidden_layers=1)
    (said,) = load_backbone(settings(bert), AutoModelForSequenceClassification, seed=0).warnings
    assert "weights in its blocks that the model in its config.json does not use" in said
    assert "encoder.layer.1.attention" in said
    assert "and 13 more" in said


def test_weights_of_another_shape_are_not_replaced_by_random_ones(bert: Path) -> None:
    edit_config(bert, intermediate_size=64)
    assert "lacks weights of the model: bert.encoder.layer.0.intermediate.dense.bias" in refusal(bert)


def test_an_unknown_family_is_refused_before_its_code_is_looked_for(bert: Path) -> None:
    edit_config(bert, model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    assert "has no models of type `evil`; fedfm does not run code from repositories of models" in refusal(bert)


@pytest.mark.parametrize("model_type", ["bert", "evil"])
def test_s02_code_that_comes_with_a_model_is_not_run(bert: Path, model_type: str) -> None:
    """The module would leave a file behind when it is imported."""
    mark = bert / "imported"
    lines = [
        "from pathlib import Path",
        f"Path({str(mark)!r}).touch()",
        "from transformers import BertConfig, BertModel",
    ]
    for name in ("modeling_x", "configuration_x", "tokenization_x"):
        (bert / f"{name}.py").write_text("\n".join([*lines, "class Config(BertConfig): model_type = 'evil'"]))
    classes = {"AutoConfig": "configuration_x.Config", "AutoModelForSequenceClassification": "modeling_x.BertModel"}
    edit_config(bert, model_type=model_type, auto_map=classes)
    if model_type == "bert":
        assert load_backbone(settings(bert), AutoModelForSequenceClassification, seed=0, labels=["a", "b"])
    else:
        assert "does not run code from repositories of models" in refusal(bert)
    assert not mark.exists()


def test_a_single_class_is_refused() -> None:
    """transformers would take it for a regression, without a word."""
    with pytest.raises(RecipeError, match=r"data\.label: the data has only one class \(a\)"):
        load_backbone(ModelSettings(path="builtin:tiny-bert"), AutoModelForSequenceClassification, seed=0, labels=["a"])


def test_a_quantised_checkpoint_is_refused(bert: Path) -> None:
    edit_config(bert, quantization_config={"quant_method": "bitsandbytes"})
    assert "is quantised; use the model with float weights" in refusal(bert)


@pytest.mark.parametrize(
    ("name", "auto_class", "says"),
    [
        ("tiny-vit", AutoModelForSequenceClassification, "models of type `vit` have no ForSequenceClassification"),
        ("tiny-gpt2", AutoModelForMaskedLM, "models of type `gpt2` have no ForMaskedLM"),
        ("tiny-bert", AutoModelForImageClassification, "models of type `bert` have no ForImageClassification"),
    ],
)
def test_a_model_unfit_for_the_task_is_refused(name: str, auto_class: Any, says: str) -> None:
    assert refusal(f"builtin:{name}", auto_class).startswith(f"model.path: {says}")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "[" * 5000, "\xff", '{"model_type": "bert", "hidden_size": "wide"}']
)
def test_a_damaged_config_is_a_data_error(content: str, bert: Path) -> None:
    (bert / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"config\.json"):
        load_backbone(settings(bert), AutoModelForSequenceClassification, seed=0)


@pytest.mark.parametrize("size", [0, 4, 3000])
def test_damaged_weights_are_a_data_error(size: int, bert: Path) -> None:
    weights = bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(DataError, match="are damaged"):
        load_backbone(settings(bert), AutoModelForSequenceClassification, seed=0)


# processors


@pytest.mark.parametrize(
    ("name", "length"), [("tiny-bert", 256), ("tiny-roberta", 256), ("small-llama", 512), ("tiny-clip", 256)]
)
def test_a_tokenizer_knows_how_much_the_model_takes(name: str, length: int) -> None:
    assert load_processor(ModelSettings(path=f"builtin:{name}"), "text").model_max_length == length


@pytest.mark.parametrize(
    "name", ["tiny-bert", "tiny-roberta", "tiny-distilbert", "tiny-gpt2", "tiny-opt", "tiny-llama"]
)
def test_a_text_of_that_length_fits(name: str) -> None:
    backbone = load(name, "text")
    inputs = backbone.processor("x" * 999, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape == (1, 256)
    assert logits(backbone.model, dict(inputs)).isfinite().all()


@pytest.mark.parametrize(
    ("kind", "name", "task"),
    [
        *[(Prompt, f"tiny-{name}", "text") for name in ("bert", "roberta", "distilbert")],
        *[(Prefix, f"tiny-{name}", "text") for name in ("bert", "roberta", "gpt2")],
        *[(kind, f"tiny-{name}", "causal") for kind in (Prompt, Prefix) for name in ("gpt2", "opt", "llama")],
    ],
)
def test_virtual_tokens_take_their_room_from_the_text(kind: type[Prompt | Prefix], name: str, task: str) -> None:
    settings = kind(num_virtual_tokens=6)
    processor = load_processor(ModelSettings(path=f"builtin:{name}"), "text", virtual_tokens=settings.virtual_tokens)
    inputs = dict(processor("x" * 999, truncation=True, return_tensors="pt"))
    assert inputs["input_ids"].shape == (1, 256 - 6)
    tunable = settings.attach(load(name, task), task_type=TASKS[task].task_type, seed=0)
    assert logits(tunable.model, inputs).isfinite().all()


def test_longrope_takes_no_more_than_its_original_length(tmp_path: Path) -> None:
    """Beyond it, one long text changes the logits of all others in its batch."""
    write_random_model("tiny-phi3", tmp_path)
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    rope |= {"original_max_position_embeddings": 32, "partial_rotary_factor": 1.0}
    edit_config(tmp_path, rope_parameters=rope, original_max_position_embeddings=32)
    backbone = load_backbone(settings(tmp_path), AutoModelForCausalLM, seed=0)
    assert backbone.processor.model_max_length == 32
    long, short = {"input_ids": list(range(5, 65))}, {"input_ids": list(range(5, 25))}
    together = logits(backbone.model, dict(backbone.processor.pad([short, long], return_tensors="pt")))
    alone = logits(backbone.model, dict(backbone.processor.pad([short], return_tensors="pt")))
    assert not torch.allclose(together[:1, :20], alone)  # or the limit would not be needed


def test_images_come_with_an_image_processor() -> None:
    assert load_processor(ModelSettings(path="builtin:tiny-vit"), "image").size["height"] == 8
    assert load_processor(ModelSettings(path="builtin:tiny-clip"), "image").size["height"] == 8


def test_a_processor_that_is_missing_is_refused(bert: Path) -> None:
    for file in bert.glob("token*"):
        file.unlink()
    assert "has no files of a tokenizer" in refusal(bert)
    (bert / "tokenizer.json").write_text("{")
    assert f"the tokenizer of {bert} cannot be read" in refusal(bert)
    with pytest.raises(RecipeError, match=r"the image processor of .* cannot be read"):
        load_processor(settings(bert), "image")


def test_b09_a_decoder_without_a_padding_token_pads_with_its_end(tmp_path: Path) -> None:
    """Or it could not tell the last token from padding when it classifies."""
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, vocab_size=261, bos_token_id=2, eos_token_id=3)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer = byte_tokenizer("start-only", 32)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    backbone = load_backbone(settings(tmp_path), AutoModelForSequenceClassification, seed=0, labels=LABELS)
    assert backbone.processor.pad_token_id == backbone.model.config.pad_token_id == 3
    together = logits(backbone.model, dict(backbone.processor(["a", "abc"], padding=True, return_tensors="pt")))
    alone = logits(backbone.model, dict(backbone.processor(["a"], return_tensors="pt")))
    torch.testing.assert_close(together[:1], alone)


def test_a_tokenizer_with_nothing_to_pad_with_is_refused(bert: Path) -> None:
    tokenizer = byte_tokenizer("pair", 32)
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(bert)
    edit_config(bert, pad_token_id=None)
    assert "has neither a padding token nor an end token" in refusal(bert)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(bert: Path) -> None:
    tokenizer = byte_tokenizer("pair", 32)
    tokenizer.add_tokens(["new"])
    tokenizer.save_pretrained(bert)
    assert "has 262 tokens, but its model has only 261 embeddings" in refusal(bert)


def test_the_base_class_has_no_head(bert: Path) -> None:
    backbone = load_backbone(settings(bert), AutoModel, seed=0)
    assert (backbone.head, backbone.new_head) == ((), ())
