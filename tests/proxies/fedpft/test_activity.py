from __future__ import annotations

import re

import pytest
import torch

from fedfm.models.families import Block
from fedfm.models.tunables import Lora, Prefix
from fedfm.proxies.fedpft.activity import (
    UNIT,
    Activity,
    activity_problem,
    counting,
    has_relu,
    measure_activity,
    tie_share,
    to_params,
    usage_scores,
)
from fedfm.proxies.trace import activations, run
from tests.models.cases import CASES, TASKS
from tests.proxies.small_proxy import KEPT, public_batches, small_proxy


def test_counts_by_hand() -> None:
    values = torch.tensor([[0.0, 2.0, -0.06], [0.0, 0.0, 2.0]])  # rms 1.155, so 0.0577 is near zero
    activity = Activity.of(values)
    assert activity.tokens == 2
    assert activity.zeros.tolist() == [2, 1, 0]
    assert activity.near_zeros.tolist() == [2, 1, 0]
    assert Activity.of(values.masked_fill(values == -0.06, -0.05)).near_zeros.tolist() == [2, 1, 1]
    assert (activity.magnitude * UNIT).tolist() == pytest.approx([0, 2, 2.06], abs=1e-5)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_padding_is_not_counted(name: str, task: str) -> None:
    """Spec 9.1 B7: against loops over real positions."""
    small = small_proxy(name, task)
    blocks = [block for _, block in small.pairs]
    batches = public_batches(small.backbone, 3)
    measured = measure_activity(small.proxy.model, blocks, batches)
    for block in blocks:
        zeros, sums, tokens = torch.zeros(KEPT), torch.zeros(KEPT), 0
        for batch in batches:
            with torch.no_grad(), activations([block]) as seen:
                run(small.proxy.model, batch)
            rows = seen[block.path].reshape(-1, KEPT)
            mask = batch.get("attention_mask", torch.ones(len(rows))).reshape(-1)
            for row, real in zip(rows, mask, strict=True):
                if real:
                    zeros, sums, tokens = zeros + (row == 0), sums + row.abs(), tokens + 1
        found = measured[block.path]
        assert found.tokens == tokens
        assert found.zeros.tolist() == zeros.tolist()
        assert (found.zeros <= found.near_zeros).all()
        torch.testing.assert_close((found.magnitude * UNIT).float(), sums, rtol=1e-4, atol=1e-4)
        assert (found.zeros.sum() > 0) == (name in ("tiny-opt", "tiny-t5"))


def test_each_layer_counts_its_own_tokens() -> None:
    """Spec 9.1 B6: in the paper's code those of one layer serve all, and are none when it stays whole."""
    small = small_proxy(whole=1)
    measured = measure_activity(small.proxy.model, [small.pairs[0][1]], public_batches(small.backbone, 1))
    assert list(measured) == ["encoder.layer.1"]
    assert measured["encoder.layer.1"].tokens == public_batches(small.backbone, 1)[0]["attention_mask"].sum()


def test_counted_while_a_client_trains() -> None:
    small = small_proxy("tiny-opt", "text")
    tunable = Lora(target_modules="all").attach(small.proxy, task_type=TASKS["text"].task_type, seed=0)
    blocks = [block for _, block in small.pairs]
    batches = public_batches(small.backbone, 2)
    with counting(tunable.model, blocks) as counted:
        for batch in batches:
            tunable.model(**batch).logits.sum().backward()
    assert counted.keys() == {block.path for block in blocks}
    expected = measure_activity(tunable.model, blocks, batches)
    for path, activity in counted.items():
        assert activity.tokens == sum(int(batch["attention_mask"].sum()) for batch in batches)
        assert torch.equal(activity.zeros, expected[path].zeros)
    tunable.model(**batches[0])
    assert counted[blocks[0].path].tokens == expected[blocks[0].path].tokens  # no longer


def test_padding_behind_a_prefix_is_not_counted_as_text() -> None:
    """The mask covers the virtual tokens too, and says nothing of the FFNs' positions."""
    small = small_proxy("tiny-llama", "causal")
    tunable = Prefix(num_virtual_tokens=3).attach(small.proxy, task_type="CAUSAL_LM", seed=0)
    with (
        counting(tunable.model, [block for _, block in small.pairs]),
        pytest.raises(ValueError, match=r"mask of shape \[4, 13\]"),
    ):
        tunable.model(**public_batches(small.backbone, 1)[0])


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-opt"])
def test_what_was_measured_can_be_a_proxys_activity(name: str) -> None:
    small = small_proxy(name)
    blocks = [block for _, block in small.pairs]
    measured = measure_activity(small.proxy.model, blocks, public_batches(small.backbone, 1))
    assert activity_problem(to_params(measured), {block.path: KEPT for block in blocks}) is None


WIDTHS = {"h.0": 3, "h.1": 2}
SENT = to_params({path: Activity.of(torch.ones(7, width)) for path, width in WIDTHS.items()})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"h.1.tokens": None}, r"1 counts of neurons' use are missing, first `h\.1\.tokens`"),
        ({"h.0.zeros": None, "h.0.magnitude": None}, r"2 counts .* missing, first `h\.0\.magnitude`"),
        ({"h.2.zeros": torch.zeros(3, dtype=torch.int64)}, r"not asked for, first `h\.2\.zeros`"),
        ({"h.0.zeros": torch.zeros(2, dtype=torch.int64)}, r"`h\.0\.zeros` has shape \[2\], not \[3\]"),
        ({"h.0.zeros": torch.zeros(1, 3, dtype=torch.int64)}, r"`h\.0\.zeros` has shape \[1, 3\], not \[3\]"),
        ({"h.1.tokens": torch.tensor([7])}, r"`h\.1\.tokens` has shape \[1\], not \[\]"),
        ({"h.0.magnitude": torch.ones(3)}, r"`h\.0\.magnitude` is torch\.float32"),
        ({"h.1.tokens": torch.tensor(0)}, r"`h\.1\.tokens` is 0"),
        ({"h.1.tokens": torch.tensor(-7)}, r"`h\.1\.tokens` is -7"),
        ({"h.0.zeros": torch.tensor([0, 8, 0])}, r"`h\.0\.zeros` .* above the 7 positions"),
        ({"h.0.near_zeros": torch.tensor([0, 0, -1])}, r"`h\.0\.near_zeros` has counts below 0"),
        ({"h.1.near_zeros": torch.tensor([8, 8])}, r"`h\.1\.near_zeros` .* above the 7 positions"),
        ({"h.1.magnitude": torch.tensor([5, -5])}, r"`h\.1\.magnitude` has sums below 0"),
    ],
)
def test_what_cannot_be_a_proxys_activity(changes: dict[str, torch.Tensor | None], said: str) -> None:
    assert activity_problem(SENT, WIDTHS) is None
    sent = {name: tensor for name, tensor in {**SENT, **changes}.items() if tensor is not None}
    assert re.search(said, activity_problem(sent, WIDTHS) or "")


def test_the_order_of_clients_does_not_matter() -> None:
    """Spec 13.5; float sums would differ in their last bits, and with them ties."""
    generator = torch.Generator().manual_seed(0)
    clients = [Activity.of(torch.randn(7, 5, generator=generator) * 10**i) for i in range(6)]
    forward, backward = Activity.none(5), Activity.none(5)
    for client in clients:
        forward += client
    for client in clients[::-1]:
        backward += client
    assert forward.tokens == backward.tokens == 42
    assert torch.equal(forward.magnitude, backward.magnitude)
    assert torch.equal(forward.near_zeros, backward.near_zeros)


def scored(kind: str, name: str = "tiny-opt") -> tuple[torch.Tensor, Activity, Block]:
    block = small_proxy(name).pairs[0][1]
    counts = torch.arange(KEPT)
    activity = Activity(tokens=20, zeros=counts, near_zeros=counts.flip(0), magnitude=(40 / UNIT * (counts + 1)).long())
    return usage_scores(kind, activity, block), activity, block  # type: ignore[arg-type]


def test_scores_by_hand() -> None:
    counts = torch.arange(KEPT).double()
    assert torch.equal(scored("apoz")[0], counts / 20)
    assert torch.equal(scored("soft-apoz")[0], counts.flip(0) / 20)
    scores, _, block = scored("contribution")
    weight = block.module.fc2.weight  # [d, m']
    for neuron in range(KEPT):
        length = sum(value.item() ** 2 for value in weight[:, neuron]) ** 0.5
        assert scores[neuron].item() == pytest.approx(-2 * (neuron + 1) * length, rel=1e-5)


def test_auto_counts_zeros_only_under_relu() -> None:
    assert torch.equal(scored("auto", "tiny-opt")[0], scored("apoz", "tiny-opt")[0])
    for name in ("tiny-bert", "tiny-distilbert", "tiny-gpt2", "tiny-llama"):
        assert not has_relu(small_proxy(name).pairs[0][1])
        assert torch.equal(scored("auto", name)[0], scored("contribution", name)[0])


def test_no_position_gives_no_score() -> None:
    block = small_proxy().pairs[0][1]
    with pytest.raises(ValueError, match=r"encoder\.layer\.0 were not counted at any position"):
        usage_scores("apoz", Activity.none(KEPT), block)


def test_tie_share() -> None:
    assert tie_share(torch.tensor([1.0, 2.0, 3.0])) == 0
    assert tie_share(torch.tensor([0.0, 2.0, 0.0, 5.0])) == 0.5
    assert tie_share(torch.zeros(4)) == 1
