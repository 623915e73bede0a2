"""Probes against gradients computed in another way, and at the ends of their scales."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedfm.models.backbones import Backbone
from fedfm.models.families import blocks
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Full, Head, Lora, Prefix, Prompt, TuneSettings
from fedfm.params import digest
from fedfm.proxies.ffn import keep_neurons, neurons
from fedfm.proxies.probes import READOUTS, Likeness, Probe, probe
from fedfm.randomness import numpy_generator
from fedfm.records import jsonl
from tests.models import cases

SEED = 3
WIDTH = 16
"""Of the tiny models."""
BERT = ("tiny-bert", "text")


def with_values(backbone: Backbone, settings: TuneSettings, task: str = "text") -> Tunable:
    """The tunable with no value at zero, the same for every backbone with parameters of these names and shapes."""
    tunable = settings.attach(backbone, task_type=cases.TASKS[task].task_type, seed=SEED)
    tunable.write(
        {
            name: value + 0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name)))
            for name, value in tunable.read().items()
        }
    )
    return tunable


def cut(backbone: Backbone, keep: int) -> Backbone:
    """A copy whose FFNs have only their first neurons."""
    model = copy.deepcopy(backbone.model)
    for block in blocks(model, backbone.family):
        keep_neurons(block, torch.arange(keep))
    return replace(backbone, model=model)


def pair(
    keep: int | None = 8, settings: TuneSettings | None = None, case: cases.Case = BERT
) -> tuple[Tunable, Tunable]:
    backbone = cases.load(*case)
    proxy = cut(backbone, keep or neurons(blocks(backbone.model, backbone.family)[0]))
    return tuple(with_values(model, settings or Lora(r=2), case[1]) for model in (backbone, proxy))  # type: ignore[return-value]


def batches(case: cases.Case = BERT) -> list[dict[str, Tensor]]:
    return [cases.batch(cases.load(*case))]


@pytest.mark.parametrize("case", cases.CASES, ids="-".join)
def test_equal_models_agree_exactly(case: cases.Case) -> None:
    found = probe(*pair(None, case=case), batches(case), seed=SEED)
    same = Likeness(error=0.0, cosine=1.0, norm_ratio=1.0)
    assert found.gradient == same
    assert set(found.layers.values()) == {same}
    assert len(found.layers) == len(blocks(cases.load(*case).model, cases.load(*case).family))
    assert found.agreement == 1
    assert found.divergence == pytest.approx(0, abs=1e-6)
    assert found.update_cosine == 1


def flat_gradient(tunable: Tunable, batch: dict[str, Tensor], readout: Tensor, part: str = "") -> Tensor:
    """∂⟨u, h⟩/∂θ by backward passes, text by text, each without its padding."""
    model = copy.deepcopy(tunable.model)
    model.eval()
    total = torch.zeros(())
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        length = int(mask.sum())
        hidden = model(input_ids=ids[None, :length], output_hidden_states=True).hidden_states[-1]
        total = total + (hidden[0].mean(dim=0) * readout).sum() / len(batch["input_ids"])
    total.backward()
    chosen = [(name, p) for name, p in model.named_parameters() if p.requires_grad and part in name]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for _, p in sorted(chosen)])


def by_hand(models: tuple[Tunable, Tunable], part: str = "") -> Likeness:
    (batch,) = batches()
    readouts = numpy_generator(SEED, "readouts").standard_normal((READOUTS, WIDTH))
    us = [torch.tensor(readout, dtype=torch.float32) for readout in readouts]
    g, h = (torch.cat([flat_gradient(model, batch, u, part) for u in us]).numpy() for model in models)
    return Likeness(
        float(np.linalg.norm(h - g) / np.linalg.norm(g)),
        float(np.dot(g, h) / np.linalg.norm(g) / np.linalg.norm(h)),
        float(np.linalg.norm(h) / np.linalg.norm(g)),
    )


def test_figures_are_those_of_the_stacked_gradients() -> None:
    models = pair()
    found = probe(*models, batches(), seed=SEED)
    assert found.gradient == approximately(by_hand(models))
    assert found.gradient.error > 0.05
    for path, likeness in found.layers.items():
        assert likeness == approximately(by_hand(models, f"{path}."))


def approximately(likeness: Likeness) -> Likeness:
    """Compares equal up to rounding."""
    return Likeness(*(pytest.approx(value, rel=1e-3) for value in vars(likeness).values()))


def test_predictions_are_compared_one_by_one() -> None:
    models = pair()
    with torch.no_grad():
        for name, parameter in models[1].model.named_parameters():
            if "output.dense.weight" in name:
                parameter.neg_().mul_(20)  # so that the predictions are far apart
    p, q = (cases.logits(model.model, batches()[0]).double().softmax(dim=-1).numpy() for model in models)
    found = probe(*models, batches(), seed=SEED)
    assert found.divergence == pytest.approx(float((p * np.log(p / q)).sum(axis=1).mean()), rel=1e-3)
    assert found.divergence > 1e-3
    assert found.agreement == (p.argmax(1) == q.argmax(1)).mean()


def test_padding_counts_for_nothing() -> None:
    case = ("tiny-roberta", "masked")
    models, (batch,) = pair(case=case), batches(case)
    wider = {
        name: nn.functional.pad(tensor, (0, 5), value=1 if name == "input_ids" else 0) for name, tensor in batch.items()
    }
    tight, wide = (probe(*models, [one], seed=SEED) for one in (batch, wider))
    assert tight.gradient == approximately(wide.gradient)
    assert (tight.agreement, tight.divergence) == pytest.approx((wide.agreement, wide.divergence), rel=1e-4)


def test_batches_weigh_by_their_predictions_and_gradients_stack() -> None:
    models, (batch,) = pair(), batches()
    first, second = ({name: tensor[i : i + 1] for name, tensor in batch.items()} for i in (0, 1))
    apart = [probe(*models, [one], seed=SEED) for one in (first, second)]
    both = probe(*models, [first, second], seed=SEED)
    assert both.divergence == pytest.approx((apart[0].divergence + apart[1].divergence) / 2)
    errors = sorted(one.gradient.error for one in apart)
    assert errors[0] < both.gradient.error < errors[1]


def test_the_more_is_cut_the_larger_the_error() -> None:
    errors = [probe(*pair(keep), batches(), seed=SEED).gradient.error for keep in (30, 16, 2)]
    assert errors == sorted(errors)
    assert errors[0] > 0


def test_read_outs_depend_on_the_seed_alone() -> None:
    models = pair()
    first, again, other = (probe(*models, batches(), seed=seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("settings", [Lora(r=2), Full(), Prompt(), Prefix()], ids=lambda settings: settings.kind)
def test_nothing_of_either_model_changes(settings: TuneSettings) -> None:
    models = pair(settings=settings)
    models[0].train()
    for model in models:
        first = next(iter(model.parameters.values()))
        first.grad = torch.ones_like(first)
    states = [state(model) for model in models]
    probe(*models, batches(), seed=SEED)
    assert [state(model) for model in models] == states


def state(tunable: Tunable) -> tuple[object, ...]:
    parameters = dict(tunable.model.named_parameters())
    return (
        digest(dict(tunable.model.state_dict())),
        {name: parameter.requires_grad for name, parameter in parameters.items()},
        {name: None if parameter.grad is None else parameter.grad.tolist() for name, parameter in parameters.items()},
        [module.training for module in tunable.model.modules()],
        [len(module._forward_hooks) for module in tunable.model.modules()],
    )


def test_an_untrained_lora_is_judged_by_its_second_matrix() -> None:
    backbone = cases.load(*BERT)
    models = [Lora(r=2).attach(model, task_type="SEQ_CLS", seed=SEED) for model in (backbone, cut(backbone, 8))]
    found = probe(*models, batches(), seed=SEED)
    for model in models:
        keep_only(model, "lora_B")
    assert found.gradient.error > 0
    assert found.gradient == approximately(probe(*models, batches(), seed=SEED).gradient)


def keep_only(tunable: Tunable, part: str) -> None:
    tunable.parameters = {name: value for name, value in tunable.parameters.items() if part in name}


def test_parameters_of_cut_neurons_are_left_out() -> None:
    models = pair(settings=Full())
    found = probe(*models, batches(), seed=SEED)
    for model in models:
        model.parameters = {
            name: value
            for name, value in model.parameters.items()
            if (".intermediate." not in name and not name.endswith("output.dense.weight")) or "attention" in name
        }
    assert found == probe(*models, batches(), seed=SEED)


def test_blocks_may_be_numbered_otherwise() -> None:
    backbone = cases.load(*BERT)
    layers = backbone.model.get_submodule("bert.encoder.layer")
    last = len(layers) - 1  # type: ignore[arg-type]
    model = copy.deepcopy(backbone.model)
    model.set_submodule("bert.encoder.layer", nn.ModuleList([model.get_submodule(f"bert.encoder.layer.{last}")]))
    proxy = with_values(replace(backbone, model=model), Lora(r=2))
    whole = with_values(backbone, Lora(r=2))
    there = {name: name.replace("layer.0.", f"layer.{last}.") for name in proxy.parameters}
    whole.write(whole.read() | {there[name]: value for name, value in proxy.read().items()})
    assert list(probe(whole, proxy, batches(), seed=SEED, names=there).layers) == [f"encoder.layer.{last}"]


def test_without_parameters_on_the_way_there_is_no_gradient_to_compare() -> None:
    found = probe(*pair(settings=Head()), batches(), seed=SEED)
    assert all(math.isnan(value) for value in vars(found.gradient).values())
    assert found.layers == {}
    assert found.divergence > 0


def move(tunable: Tunable) -> None:
    tunable.write({name: value + (name.endswith("lora_B.weight")) for name, value in tunable.read().items()})


def drop(tunable: Tunable) -> None:
    tunable.parameters = {}


@pytest.mark.parametrize(
    ("change", "message"),
    [(move, "different values of base_model.* and 7 more"), (drop, "no parameter in common")],
)
def test_what_cannot_be_compared_is_refused(change: Callable[[Tunable], None], message: str) -> None:
    models = pair()
    change(models[1])
    with pytest.raises(ValueError, match=message):
        probe(*models, batches(), seed=SEED)


def test_no_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        probe(*pair(), [], seed=SEED)


def test_the_first_step_of_adam_by_hand() -> None:
    models, steps = pair(), []
    (batch,) = batches()
    readouts = numpy_generator(SEED, "readouts").standard_normal((READOUTS, WIDTH))
    for model in models:
        updates = []
        for readout in readouts:
            parameter = nn.Parameter(torch.zeros(len(flat_gradient(model, batch, torch.zeros(WIDTH)))))
            parameter.grad = flat_gradient(model, batch, torch.tensor(readout, dtype=torch.float32))
            torch.optim.Adam([parameter], lr=1.0, eps=1e-30).step()
            updates.append(parameter.detach())
        steps.append(torch.cat(updates).numpy())
    wanted = np.dot(*steps) / np.linalg.norm(steps[0]) / np.linalg.norm(steps[1])
    assert probe(*models, batches(), seed=SEED).update_cosine == pytest.approx(float(wanted), abs=2e-3)
    assert 0 < wanted < 1


def test_a_record_is_flat_json() -> None:
    found = Probe(
        gradient=Likeness(0.5, 0.875, 1.25),
        layers={"layer.0": Likeness(0.25, 1.0, 1.0)},
        agreement=0.75,
        divergence=0.125,
        update_cosine=0.625,
        hidden_errors={"layer.0": 0.5, "layer.1": 0.25},
    )
    assert json.loads(jsonl.dumps(found.record())) == {
        "gradient_error": 0.5,
        "gradient_cosine": 0.875,
        "update_cosine": 0.625,
        "gradient_norm_ratio": 1.25,
        "agreement": 0.75,
        "divergence": 0.125,
        "hidden_error": 0.375,
        "layers": {
            "layer.0": {
                "gradient_error": 0.25,
                "gradient_cosine": 1.0,
                "gradient_norm_ratio": 1.0,
                "hidden_error": 0.5,
            },
            "layer.1": {"hidden_error": 0.25},
        },
    }
    assert json.loads(jsonl.dumps(replace(found, hidden_errors={}).record()))["hidden_error"] is None
