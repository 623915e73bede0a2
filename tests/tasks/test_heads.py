"""A classifier with several heads: an example competes among the classes of its own head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy

from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.tasks import ImageClassification, TextClassification

HEADS = [0, 1, 0, 1, 1]
NONE = Examples(Dataset.from_dict({}), np.ones(0, np.int32))


def test_the_loss_is_that_of_the_examples_own_head() -> None:
    torch.manual_seed(0)
    task = TextClassification().with_heads(HEADS)
    logits = torch.randn(3, 5, requires_grad=True)
    labels = torch.tensor([2, 4, 1])
    losses, counts = task.losses(logits, {"labels": labels})
    first = cross_entropy(logits[:1, [0, 2]], torch.tensor([1]), reduction="none")
    others = cross_entropy(logits[1:, [1, 3, 4]], torch.tensor([2, 0]), reduction="none")
    torch.testing.assert_close(losses, torch.cat([first, others]))
    assert counts.tolist() == [1, 1, 1]
    losses.sum().backward()
    assert logits.grad is not None
    assert not logits.grad[0, [1, 3, 4]].any()
    assert not logits.grad[1:, [0, 2]].any()
    assert logits.grad.isfinite().all()


def test_the_prediction_is_a_class_of_the_examples_own_head() -> None:
    logits = torch.tensor([[1.0, 9.0, 2.0, 8.0, 7.0], [9.0, 1.0, 8.0, 2.0, 3.0]])
    batch = {"labels": torch.tensor([0, 3])}
    assert ImageClassification().measure(logits, batch)["predicted"].tolist() == [1, 0]
    assert ImageClassification(heads=HEADS).measure(logits, batch)["predicted"].tolist() == [2, 4]
    assert torch.equal(ImageClassification().choices(logits, batch), logits)


def test_heads_that_do_not_fit_the_classes_are_refused() -> None:
    with pytest.raises(RecipeError, match="5 numbers cannot say the head of each of 2 classes"):
        TextClassification(heads=HEADS).settled(LabelMap(("a", "b")), NONE, {})


def test_one_of_several_tasks_has_one_head() -> None:
    with pytest.raises(RecipeError, match="one of several tasks has one head"):
        load_recipe("multitask", ["task.tasks=[{name: a, kind: text-classification, heads: [0, 1]}]"])
