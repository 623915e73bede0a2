from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Lora
from fedfm.proxies.divergence import divergence, states_and_logits
from fedfm.proxies.fedpft.activity import measure_activity
from fedfm.proxies.fedpft.alignment import Aligned, align, choose_neurons, overlap, require_same_tunable
from fedfm.proxies.fedpft.settings import Alignment
from fedfm.proxies.ffn import neuron_tensors
from fedfm.proxies.hidden import layer_errors
from tests.proxies.small_proxy import KEPT, Small, changed, public_batches, small_proxy, values

NAMES = ["tiny-bert", "tiny-distilbert", "tiny-gpt2", "tiny-opt", "tiny-llama", "tiny-vit"]
SETTINGS = Alignment(share=0.4, steps=12, learning_rate=0.01)


def tuned(name: str, whole: int = 0) -> tuple[Small, Tunable, Tunable]:
    """A proxy and its backbone with the same tunable, which does something."""
    task = "image" if name == "tiny-vit" else "text"
    small = small_proxy(name, task, whole)
    task_type = "SEQ_CLS" if task == "text" else None
    teacher, student = (Lora().attach(model, task_type=task_type, seed=0) for model in (small.backbone, small.proxy))
    generator = torch.Generator().manual_seed(3)
    aggregate = {
        key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in teacher.read().items()
    }
    teacher.write(aggregate)
    student.write(aggregate)
    return small, teacher, student


def run_alignment(small: Small, teacher: Tunable, student: Tunable, settings: Alignment = SETTINGS) -> Aligned:
    public = public_batches(small.backbone, settings.steps)
    activity = measure_activity(student.model, [block for _, block in small.pairs], public)
    return align(teacher, student, small.pairs, small.own, activity, public, settings, seed=0, round=10)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_chosen_neurons_move(name: str) -> None:
    """Spec 13.5: frozen neurons bit-equal; ⌈p·m'⌉ neurons, the output bias and the norm after it change."""
    small, teacher, student = tuned(name, whole=1)
    backbone, proxy = values(teacher.model), values(student.model)
    before = {key: value.detach().clone() for key, value in small.own.items()}
    probes = public_batches(small.backbone, 2, seed=5)
    ((_, distance),) = layer_errors(teacher.model, student.model, small.pairs, probes).items()
    result = run_alignment(small, teacher, student)
    assert changed(teacher.model, backbone) == set()
    own = {id(parameter) for parameter in small.own.values()}
    names = {key for key, parameter in student.model.named_parameters() if id(parameter) in own}
    assert changed(student.model, proxy) == names  # whole layers and the tunable untouched (B3)
    ((path, chosen),) = result.chosen.items()
    assert chosen.sum() == math.ceil(0.4 * KEPT)
    remaining = dict(small.own)
    block = small.pairs[0][1]
    for tensor in neuron_tensors(block):
        key = f"{path}.{tensor.name}"
        parameter = remaining.pop(key)
        frozen, moved = (~chosen).nonzero().flatten(), chosen.nonzero().flatten()
        assert torch.equal(tensor.take(parameter.detach(), frozen), tensor.take(before[key], frozen))
        differing = tensor.take(parameter.detach(), moved) != tensor.take(before[key], moved)
        assert differing.float().mean() > 0.9
    assert all((parameter != before[key]).float().mean() > 0.9 for key, parameter in remaining.items())
    assert layer_errors(teacher.model, student.model, small.pairs, probes)[path] < distance
    assert len(result.losses) == 12


@pytest.mark.parametrize("name", NAMES)
def test_the_least_used_neurons_are_chosen(name: str) -> None:
    small, teacher, student = tuned(name)
    with torch.no_grad():
        for _, block in small.pairs:  # four neurons that hardly contribute, and are zero under ReLU
            for tensor in neuron_tensors(block):
                parameter = block.module.get_parameter(tensor.name)
                index = tensor.index(torch.tensor([2, 3, 7, 11]), KEPT)
                parameter.index_fill_(tensor.axis, index, -1e4 if tensor.name.endswith("bias") else 1e-6)
    result = run_alignment(small, teacher, student, Alignment(share=4 / KEPT, steps=1))
    for chosen in result.chosen.values():
        assert chosen.nonzero().flatten().tolist() == [2, 3, 7, 11]


def test_all_neurons_without_counting_them() -> None:
    small, teacher, student = tuned("tiny-bert")
    settings = Alignment(share=1, steps=3, learning_rate=0.01)
    batches = public_batches(small.backbone, 3)
    result = align(teacher, student, small.pairs, small.own, {}, batches, settings, seed=0, round=1)
    assert all(chosen.all() for chosen in result.chosen.values())
    assert result.ties == {}


def test_predictions_are_in_the_loss_where_the_settings_say_so() -> None:
    small, teacher, student = tuned("tiny-llama")
    (batch,) = public_batches(small.backbone, 1)
    with torch.no_grad():
        (_, wanted), (_, found) = (states_and_logits(half.model.eval(), [], batch) for half in (teacher, student))
    losses = [
        align(teacher, student, small.pairs, small.own, {}, [batch], settings, seed=0, round=1).losses[0]
        for settings in (Alignment(share=1, steps=1, predictions=gamma, learning_rate=1e-30) for gamma in (0, 2))
    ]
    assert losses[1] - losses[0] == pytest.approx(2 * divergence(wanted, found).item(), rel=1e-3)


def test_the_proxy_is_aligned_with_the_aggregate() -> None:
    """Spec 9.1 B2: in the paper's code it carries what the last client sent."""
    small, teacher, student = tuned("tiny-bert")
    last_client = {name: value + 1e-7 + value * 1e-6 for name, value in student.read().items()}
    student.write(last_client)
    proxy = values(student.model)
    with pytest.raises(ValueError, match="different tunables; load the aggregate into both"):
        run_alignment(small, teacher, student)
    assert changed(student.model, proxy) == set()


def test_tensors_of_ffn_adapters_are_not_compared() -> None:
    small = small_proxy()
    teacher, student = (
        Lora(target_modules="all").attach(model, task_type="SEQ_CLS", seed=0) for model in (small.backbone, small.proxy)
    )
    same = {name: torch.ones_like(value) for name, value in student.read().items()}
    student.write(same)
    teacher.write({name: torch.ones_like(value) for name, value in teacher.read().items()})
    require_same_tunable(teacher, student)


def test_another_tunable_is_refused() -> None:
    small = small_proxy()
    teacher = Lora().attach(small.backbone, task_type="SEQ_CLS", seed=0)
    student = Lora(head=False).attach(load_pretending_head(small), task_type="SEQ_CLS", seed=0)
    with pytest.raises(ValueError, match="classifier"):
        require_same_tunable(teacher, student)


def load_pretending_head(small: Small):  # type: ignore[no-untyped-def]
    """The proxy as if its head were trained already."""
    return replace(small.proxy, new_head=())


def test_alignment_says_how_much_chance_chose() -> None:
    small, teacher, student = tuned("tiny-bert")
    settings = Alignment(score="apoz", steps=1)
    assert set(run_alignment(small, teacher, student, settings).ties.values()) == {1.0}  # GELU is never zero here
    small, teacher, student = tuned("tiny-bert")
    assert set(run_alignment(small, teacher, student, Alignment(steps=1)).ties.values()) == {0.0}


def test_choice_by_hand() -> None:
    scores = torch.tensor([0.1, 0.9, 0.5, 0.9, 0.2])
    chosen = choose_neurons(scores, 0.5, seed=0, round=1, path="layer.0")
    assert chosen.tolist() == [False, True, True, True, False]
    assert choose_neurons(torch.arange(100.0), 0.07, seed=0, round=1, path="").sum() == 7


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=30),
    st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.8, 1.0]),
    st.integers(0, 5),
)
def test_no_neuron_left_out_is_used_less(counts: list[int], share: float, seed: int) -> None:
    scores = torch.tensor(counts).double()
    chosen = choose_neurons(scores, share, seed=seed, round=2, path="h.0")
    assert chosen.sum() == -(-round(share * 100) * len(counts) // 100)
    if not chosen.all():
        assert scores[chosen].min() >= scores[~chosen].max()


def test_chance_decides_ties_by_key() -> None:
    scores = torch.zeros(64)

    def drawn(seed: int = 0, round: int = 10, path: str = "h.0") -> list[bool]:  # noqa: A002
        return choose_neurons(scores, 0.5, seed=seed, round=round, path=path).tolist()

    assert drawn() == drawn()
    others = [drawn(seed=1), drawn(round=20), drawn(path="h.1")]
    assert all(other != drawn() for other in others)
    assert drawn() != [True] * 32 + [False] * 32


def test_overlap_by_hand() -> None:
    """Spec 6.3 Z1: of the five chosen now, the alignment before had chosen two."""
    before = {"h.0": torch.tensor([True, True, False, False]), "h.1": torch.tensor([True, False, False, False])}
    now = {"h.0": torch.tensor([False, True, True, False]), "h.1": torch.tensor([True, True, True, False])}
    assert overlap(before, now) == 2 / 5
    assert overlap(now, before) == 2 / 3
    assert overlap(now, now) == 1
    assert overlap({path: ~chosen for path, chosen in now.items()}, now) == 0
