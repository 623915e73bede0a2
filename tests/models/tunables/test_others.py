"""Tunables other than LoRA: sizes by hand, formulas, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import ElectraConfig, ElectraForSequenceClassification, Qwen3Config, Qwen3ForCausalLM

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.byte_tokenizer import byte_tokenizer
from fedfm.models.families import FAMILIES
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import IA3, TUNABLES, BitFit, Full, Head, Lora, Prefix, Prompt, Tune, TuneSettings
from tests.models.cases import CASES, TASKS, Case, batch, load, logits


def attach(settings: TuneSettings, case: Case) -> tuple[Backbone, Tunable]:
    backbone = load(*case)
    return backbone, settings.attach(backbone, task_type=TASKS[case[1]].task_type, seed=0)


def size(tunable: Tunable, part: str = "") -> int:
    return sum(tensor.numel() for name, tensor in tunable.read().items() if part in name)


@pytest.mark.parametrize("kind", TUNABLES)
def test_a_recipe_names_a_kind(kind: str) -> None:
    assert type(TypeAdapter(Tune).validate_python({"kind": kind})) is TUNABLES[kind]
    assert TUNABLES[kind]().model_dump()["kind"] == kind
    with pytest.raises(ValidationError):
        TypeAdapter(Tune).validate_python({"kind": kind, "unknown": 1})


@pytest.mark.parametrize("kind", TUNABLES)
def test_every_setting_explains_itself(kind: str) -> None:
    assert all(field.description for field in TUNABLES[kind].model_fields.values())


# (IA)³


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (("tiny-bert", "text"), 2 * (16 + 16 + 32)),  # layers · (keys + values + FFN neurons)
        (("tiny-llama", "causal"), 2 * (8 + 8 + 32)),  # one key-value head of width 8
        (("tiny-gpt2", "causal"), 2 * (3 * 16 + 32)),  # query, key and value are one matrix
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_ia3_has_a_factor_a_key_a_value_and_a_neuron(case: Case, expected: int) -> None:
    assert size(attach(IA3(), case)[1], "ia3") == expected


def test_ia3_scales_rows_of_keys_and_columns_of_ffn_outputs() -> None:
    """arXiv:2205.05638, §3.3: l_k ⊙ (W_k x), and W_2 (l_ff ⊙ γ(W_1 x))."""
    _, tunable = attach(IA3(), ("tiny-llama", "causal"))
    before = {name: tensor.clone() for name, tensor in load("tiny-llama", "causal").model.state_dict().items()}
    torch.manual_seed(0)
    params = {name: torch.rand_like(tensor) for name, tensor in tunable.read().items()}
    tunable.write(params)
    merged = tunable.merged().state_dict()
    key, down = "model.layers.0.self_attn.k_proj", "model.layers.0.mlp.down_proj"
    keys = params[f"base_model.model.{key}.ia3_l"]
    neurons = params[f"base_model.model.{down}.ia3_l"]
    torch.testing.assert_close(merged[f"{key}.weight"], keys.reshape(-1, 1) * before[f"{key}.weight"])
    torch.testing.assert_close(merged[f"{down}.weight"], before[f"{down}.weight"] * neurons.reshape(1, -1))


def test_ia3_takes_the_users_targets() -> None:
    assert size(attach(IA3(target_modules=["query"]), ("tiny-bert", "text"))[1], "ia3") == 2 * 16
    chosen = IA3(target_modules=["query", "intermediate.dense"], feedforward_modules=["intermediate.dense"])
    assert size(attach(chosen, ("tiny-bert", "text"))[1], "ia3") == 2 * (16 + 16)
    with pytest.raises(RecipeError, match=r"tune\.target_modules: no module"):
        attach(IA3(target_modules=["absent"]), ("tiny-bert", "text"))
    with pytest.raises(RecipeError, match=r"tune\.feedforward_modules: no module .* matches `absent`"):
        attach(IA3(feedforward_modules=["absent"]), ("tiny-bert", "text"))


# virtual tokens


@pytest.mark.parametrize(
    ("settings", "case", "expected"),
    [
        (Prompt(num_virtual_tokens=3), ("tiny-gpt2", "causal"), 3 * 16),
        (
            Prefix(num_virtual_tokens=3),
            ("tiny-gpt2", "causal"),
            3 * 2 * 2 * 16,
        ),  # tokens · layers · (key, value) · width
        (Prefix(num_virtual_tokens=3), ("tiny-llama", "causal"), 3 * 2 * 2 * 8),
    ],
    ids=["prompt", "prefix", "prefix-grouped"],
)
def test_virtual_tokens_have_the_size_of_what_they_stand_for(settings: Any, case: Case, expected: int) -> None:
    _, tunable = attach(settings, case)
    assert tunable.read()["prompt_embeddings"].numel() == size(tunable) == expected


def test_a_prompt_starts_as_words_of_the_vocabulary() -> None:
    backbone, tunable = attach(Prompt(), ("tiny-bert", "text"))
    vocabulary = backbone.model.get_input_embeddings().weight
    for token in tunable.read()["prompt_embeddings"]:
        assert (vocabulary == token).all(1).any()


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in CASES
        if case[1] in ("text", "causal") and case[0] not in ("tiny-distilbert", "tiny-deberta", "tiny-t5")
    ],
    ids="-".join,
)
def test_every_value_of_a_prefix_reaches_the_logits(case: Case) -> None:
    """transformers once ignored ``past_key_values`` in encoders without a word."""
    backbone, tunable = attach(Prefix(num_virtual_tokens=2), case)
    tunable.model(**batch(backbone)).logits.square().sum().backward()
    gradient = tunable.parameters["prompt_embeddings"].grad
    assert gradient is not None
    assert (gradient != 0).float().mean() > 0.99


def test_a_prefix_on_bert_is_keys_and_values_before_those_of_the_text() -> None:
    """Attention by hand, in the first block, over [prefix; text]."""
    backbone, tunable = attach(Prefix(num_virtual_tokens=2), ("tiny-bert", "text"))
    inputs = {name: tensor[:1, :5] for name, tensor in batch(backbone).items()}
    seen: dict[str, torch.Tensor] = {}
    attention = backbone.model.bert.encoder.layer[0].attention
    attention.self.register_forward_hook(lambda module, args, output: seen.update(context=output[0]))
    attention.self.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(hidden=args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    logits(tunable.model, inputs)
    prefix = tunable.read()["prompt_embeddings"].reshape(2, 4, 2, 8)  # tokens, (layer, key or value), heads, width
    hidden = seen["hidden"][0]
    heads = []
    with torch.no_grad():
        for head in range(2):
            rows = slice(8 * head, 8 * head + 8)
            query, key, value = (
                projection(hidden)[:, rows]
                for projection in (attention.self.query, attention.self.key, attention.self.value)
            )
            key, value = torch.cat([prefix[:, 0, head], key]), torch.cat([prefix[:, 1, head], value])
            heads.append((query @ key.T / 8**0.5).softmax(-1) @ value)
    torch.testing.assert_close(seen["context"][0], torch.cat(heads, -1), atol=1e-6, rtol=1e-5)


def test_a_prompt_fits_embeddings_narrower_than_the_model() -> None:
    config = ElectraConfig(
        vocab_size=261,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    backbone = of_model(ElectraForSequenceClassification(config), "electra", head=("classifier",))
    tunable = Prompt(num_virtual_tokens=3).attach(backbone, task_type="SEQ_CLS", seed=0)
    assert tunable.read()["prompt_embeddings"].shape == (3, 8)
    assert logits(tunable.model, batch(backbone)).shape == (2, 2)


def test_a_prefix_fits_heads_wider_than_the_model_divided() -> None:
    config = Qwen3Config(
        vocab_size=261,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        intermediate_size=32,
    )
    backbone = of_model(Qwen3ForCausalLM(config), "qwen3")
    tunable = Prefix(num_virtual_tokens=3).attach(backbone, task_type="CAUSAL_LM", seed=0)
    assert tunable.read()["prompt_embeddings"].shape == (3, 2 * 12)
    assert logits(tunable.model, batch(backbone)).isfinite().all()


def of_model(model: Any, family: str, head: tuple[str, ...] = ()) -> Backbone:
    model.eval().requires_grad_(False)
    like = load("tiny-bert", "text")
    return replace(
        like,
        model=model,
        processor=byte_tokenizer("pair", 64),
        family=FAMILIES[family],
        name="made-here",
        head=head,
        new_head=(),
    )


@pytest.mark.parametrize("kind", [Prompt, Prefix])
def test_virtual_tokens_for_a_classifier_come_with_its_head(kind: type[Prompt | Prefix]) -> None:
    with pytest.raises(RecipeError, match=r"tune\.head: "):
        attach(kind(head=False), ("tiny-bert", "text"))


@pytest.mark.parametrize(
    ("settings", "case", "reason"),
    [
        (Prompt(), ("tiny-vit", "image"), "need a model that reads text"),
        (Prefix(), ("tiny-bert", "masked"), "no virtual tokens for this task"),
        (Prompt(), ("tiny-opt", "text"), "cannot distinguish from padding"),
        (Prefix(), ("tiny-distilbert", "text"), "distilbert models do not accept a prefix"),
        (Prompt(), ("tiny-t5", "text"), "adds virtual tokens to one of them"),
        (Prefix(), ("tiny-t5", "text"), "adds virtual tokens to one of them"),
        (BitFit(), ("tiny-llama", "causal"), "have no biases"),
        (Head(), ("tiny-llama", "causal"), "is tied to its embeddings"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_the_refusal_gives_its_reason(settings: TuneSettings, case: Case, reason: str) -> None:
    with pytest.raises(RecipeError, match=rf"tune\.kind: .*{reason}"):
        attach(settings, case)


# parts of the model itself


def test_bitfit_trains_every_bias_of_the_blocks_and_the_head() -> None:
    _, tunable = attach(BitFit(), ("tiny-bert", "text"))
    block = 4 * 16 + 32 + 16 + 2 * 16  # attention, FFN, two norms
    assert size(tunable, "encoder.layer.0.") == block
    assert size(tunable) == 2 * block + (16 * 3 + 3)
    assert not any("embeddings" in name or "pooler" in name for name in tunable.parameters)


def test_head_trains_the_head_alone_even_an_untied_language_models() -> None:
    assert list(attach(Head(), ("tiny-vit", "image"))[1].parameters) == ["classifier.bias", "classifier.weight"]
    untied = Qwen3ForCausalLM(Qwen3Config(vocab_size=261, hidden_size=16, num_hidden_layers=1, intermediate_size=32))
    assert list(Head().attach(of_model(untied, "qwen3"), task_type="CAUSAL_LM", seed=0).parameters) == [
        "lm_head.weight"
    ]


def test_full_trains_tied_matrices_once() -> None:
    backbone, tunable = attach(Full(), ("tiny-llama", "causal"))
    assert "lm_head.weight" not in tunable.parameters
    assert size(tunable) == backbone.model.num_parameters()


def test_a_backbones_tunables_may_train_the_same_head_and_start_alike() -> None:
    lora = attach(Lora(), ("tiny-bert", "text"))[1].read()
    head = attach(Head(), ("tiny-bert", "text"))[1].read()
    assert torch.equal(lora["base_model.model.classifier.weight"], head["classifier.weight"])
