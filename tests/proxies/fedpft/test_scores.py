"""Scores equal their formulas, computed in another way; padding and other blocks do not matter."""

from __future__ import annotations

from typing import Literal, get_args

import pytest
import torch
from torch import Tensor

from fedfm.models.backbones import Backbone
from fedfm.proxies.fedpft.scores import SCORES, Scoring, scores
from fedfm.proxies.fedpft.scores.gradient import READ_OUTS
from fedfm.proxies.fedpft.scores.norms import concat_l2, product
from fedfm.proxies.fedpft.settings import WEIGHTS_ALONE, NeuronScore
from fedfm.proxies.ffn import neuron_tensors, neurons, output_layer
from fedfm.proxies.trace import hidden_states, run
from fedfm.randomness import numpy_generator
from fedfm.tasks.base import Batch
from tests.models.cases import CASES, Case, load
from tests.proxies.small_proxy import blocks_of, changed, public_batches, values

cases = pytest.mark.parametrize("case", CASES, ids="-".join)
KINDS: tuple[NeuronScore, ...] = get_args(NeuronScore)
DATA_DRIVEN = [kind for kind in KINDS if kind not in WEIGHTS_ALONE]
BERT, GPT2, LLAMA = ("tiny-bert", "text"), ("tiny-gpt2", "text"), ("tiny-llama", "text")


def scored(backbone: Backbone, kind: NeuronScore, batches: list[Batch], seed: int = 0) -> dict[str, Tensor]:
    return scores(kind, scoring(backbone, batches, seed))


def scoring(backbone: Backbone, batches: list[Batch], seed: int = 0, first: int = 0) -> Scoring:
    blocks = blocks_of(backbone)[first:]
    return Scoring(backbone, blocks, {block.path: neurons(block) for block in blocks}, batches, seed)


def test_every_kind_of_the_settings_is_registered() -> None:
    assert tuple(SCORES) == KINDS


@cases
def test_norms_are_those_of_the_vectors_one_by_one(case: Case) -> None:
    backbone = load(*case)
    for block in blocks_of(backbone):
        ffn = block.stack.ffn
        matrices = [block.module.get_parameter(f"{path}.weight").double() for path in (*ffn.inputs, ffn.output)]
        rows = [matrix.T if ffn.transposed else matrix for matrix in matrices]  # [out, in]
        rows = [*(rows[0].chunk(2) if ffn.fused else rows[:-1]), rows[-1]]
        for neuron in range(neurons(block)):
            own = [matrix[neuron] for matrix in rows[:-1]] + [rows[-1][:, neuron]]
            squares = [sum(value.item() ** 2 for value in vector) for vector in own]
            assert concat_l2(block)[neuron].item() == pytest.approx(sum(squares) ** 0.5)
            expected = 1.0
            for square in squares:
                expected *= square**0.5
            assert product(block)[neuron].item() == pytest.approx(expected)


def test_norms_of_large_weights_do_not_lose_small_ones() -> None:
    block = blocks_of(load(*BERT))[0]
    with torch.no_grad():
        block.module.get_parameter("intermediate.dense.weight").fill_(1e4)
        output = output_layer(block).get_parameter("weight").fill_(0)
        output[0, 1] = 0.1
    assert concat_l2(block).argmax() == 1  # in float32 all would be equal


@pytest.mark.parametrize(("kind", "changes"), [("concat-l2", True), ("product", False)])
def test_product_does_not_see_a_scale_that_moves_from_one_vector_to_another(
    kind: Literal["concat-l2", "product"], changes: bool
) -> None:
    backbone = load(*LLAMA)
    before = scored(backbone, kind, [])["layers.0"]
    with torch.no_grad():
        backbone.model.base_model.layers[0].mlp.up_proj.weight[5] *= 4
        backbone.model.base_model.layers[0].mlp.down_proj.weight[:, 5] /= 4
    after = scored(backbone, kind, [])["layers.0"]
    assert torch.allclose(before, after) is not changes


@cases
def test_activation_is_the_mean_size_of_what_leaves_a_neuron(case: Case) -> None:
    backbone = load(*case)
    batches = public_batches(backbone, 2)
    found = scored(backbone, "activation", batches)
    for block in blocks_of(backbone):
        seen: list[Tensor] = []
        hook = output_layer(block).register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        sums, count = torch.zeros(neurons(block), dtype=torch.float64), 0
        for batch in batches:
            for row in range(len(batch[backbone.model.main_input_name])):
                example = {name: tensor[row : row + 1] for name, tensor in batch.items()}
                length = int(example["attention_mask"].sum()) if "attention_mask" in example else None
                with torch.no_grad():
                    run(backbone.model, {name: tensor[:, :length] for name, tensor in example.items()})
                activations = seen.pop().reshape(-1, neurons(block)).double()
                sums, count = sums + activations.abs().sum(0), count + len(activations)
        hook.remove()
        weight = output_layer(block).get_parameter("weight").double()
        lengths = weight.norm(dim=1 if block.stack.ffn.transposed else 0)
        torch.testing.assert_close(found[block.path], sums / count * lengths, rtol=1e-4, atol=1e-6)


def read_outs(backbone: Backbone, batch: Batch, seed: int) -> Tensor:
    """For each read-out and example, ⟨u, mean over real positions of the last block's output⟩, summed over stacks."""
    last = {block.stack.path: block for block in blocks_of(backbone)}.values()
    with torch.no_grad():
        states = hidden_states(backbone.model, list(last), batch)
    found = torch.zeros(READ_OUTS, 4, dtype=torch.float64)
    for path, state in states.items():
        mask = batch.get("attention_mask", torch.ones(state.shape[:2])).double()
        pooled = (state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        for number in range(READ_OUTS):
            u = numpy_generator(seed, f"read-out {number} of {path}").standard_normal(state.shape[-1])
            found[number] += pooled.double() @ torch.from_numpy(u)
    return found


@cases
def test_gradient_sums_squares_of_how_read_outs_change_with_a_neurons_output(case: Case) -> None:
    """Finite differences: Σ_t aⱼₜ·∂ℓ/∂aⱼₜ is the derivative of an example's ℓ by a factor on aⱼ, at 1."""
    backbone = load(*case)
    backbone.model.double()
    batches = public_batches(backbone, 2)
    for batch in batches:
        if "pixel_values" in batch:
            batch["pixel_values"] = batch["pixel_values"].double()
    found = scored(backbone, "gradient", batches, seed=7)
    step = 1e-3  # no smaller: norms of Llama and its like compute in single precision
    for block in blocks_of(backbone):
        weight = output_layer(block).get_parameter("weight").data
        vectors = weight if block.stack.ffn.transposed else weight.T  # [m, d], a view
        for neuron in (0, 31):
            before, read = vectors[neuron].clone(), []
            for factor in (1 + step, 1 - step):
                vectors[neuron] = before * factor
                read.append(torch.cat([read_outs(backbone, batch, seed=7) for batch in batches], dim=1))
            vectors[neuron] = before
            expected = ((read[0] - read[1]) / (2 * step)).square().sum().item()
            assert found[block.path][neuron].item() == pytest.approx(expected, rel=2e-2, abs=1e-3)


@pytest.mark.parametrize("kind", ["product", "activation", "gradient"])
@cases
def test_a_neuron_whose_output_weighs_nothing_scores_zero(case: Case, kind: NeuronScore) -> None:
    backbone = load(*case)
    block = blocks_of(backbone)[1]
    weight = output_layer(block).get_parameter("weight").data
    (weight if block.stack.ffn.transposed else weight.T)[3] = 0
    found = scored(backbone, kind, public_batches(backbone, 2))[block.path]
    assert found[3] == 0
    assert (found > 0).sum() >= neurons(block) // 2


@pytest.mark.parametrize("case", [BERT, GPT2, LLAMA], ids="-".join)
@pytest.mark.parametrize("kind", DATA_DRIVEN)
def test_padding_does_not_count(case: Case, kind: NeuronScore) -> None:
    backbone = load(*case)
    (batch,) = public_batches(backbone, 1)
    wider = {name: torch.nn.functional.pad(tensor, (0, 6)) for name, tensor in batch.items()}
    for path, score in scored(backbone, kind, [batch]).items():
        torch.testing.assert_close(score, scored(backbone, kind, [wider])[path], rtol=1e-4, atol=1e-6)


@cases
def test_the_backbone_is_left_as_it_was(case: Case) -> None:
    backbone = load(*case)
    before = values(backbone.model)
    for kind in KINDS:
        found = scored(backbone, kind, public_batches(backbone, 1))
        assert list(found) == [block.path for block in blocks_of(backbone)]
        for block in blocks_of(backbone):
            assert found[block.path].shape == (neurons(block),)
            assert found[block.path].dtype == torch.float64
            assert not found[block.path].requires_grad
    assert changed(backbone.model, before) == set()
    assert all(not weight.requires_grad and weight.grad is None for weight in backbone.model.parameters())


def test_only_chance_and_read_outs_depend_on_the_seed() -> None:
    backbone = load(*BERT)
    batches = public_batches(backbone, 1)
    for kind in KINDS:
        first, again, other = (scored(backbone, kind, batches, seed)["encoder.layer.0"] for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert torch.equal(first, other) is (kind not in ("gradient", "random"))


def test_some_blocks_can_be_scored_alone() -> None:
    backbone = load(*BERT)
    batches = public_batches(backbone, 1)
    for kind in KINDS:
        whole = scored(backbone, kind, batches)["encoder.layer.1"]
        alone = scores(kind, scoring(backbone, batches, first=1))
        assert alone.keys() == {"encoder.layer.1"}
        assert torch.equal(alone["encoder.layer.1"], whole)


@pytest.mark.parametrize("kind", DATA_DRIVEN)
def test_data_driven_scores_need_data(kind: NeuronScore) -> None:
    with pytest.raises(ValueError, match=f"the score {kind} needs batches"):
        scored(load(*BERT), kind, [])


def test_neurons_are_compared_by_their_weights_alone_and_not_by_biases() -> None:
    backbone = load(*BERT)
    block = blocks_of(backbone)[0]
    before = concat_l2(block), product(block)
    for tensor in neuron_tensors(block):
        if tensor.name.endswith("bias"):
            block.module.get_parameter(tensor.name).data += 5
    assert torch.equal(before[0], concat_l2(block))
    assert torch.equal(before[1], product(block))
