"""The contrastive loss and the metrics against numbers worked out apart, and what cannot be trained so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from torch.nn.functional import normalize

from fedfm.data.settings import DataSettings
from fedfm.data.text_pairs import PASSAGE
from fedfm.errors import RecipeError
from fedfm.models.backbones import load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables.full import Full
from fedfm.tasks.retrieval import Retrieval, rank_of

TASK = Retrieval()
PAIRS = [("how to go on", "walk walks the tree"), ("a list", "lists hold values"), ("end", "exit ends the program now")]


def backbone(model: str = "tiny-bert") -> Any:
    return load_backbone(ModelSettings(path=f"builtin:{model}"), TASK.auto_class, seed=0)


def rows(processor: Any, pairs: list[tuple[str, str]] = PAIRS) -> list[dict[str, Any]]:
    return [
        dict(processor(question, return_attention_mask=False))
        | {f"{PASSAGE}{name}": ids for name, ids in processor(passage, return_attention_mask=False).items()}
        for question, passage in pairs
    ]


def test_the_loss_is_the_mean_of_both_directions_over_the_batch() -> None:
    task = Retrieval(temperature=0.5)
    q, p = (normalize(torch.tensor(values), dim=-1) for values in ([[1.0, 0.0], [3.0, 4.0]], [[0.0, 1.0], [1.0, 1.0]]))
    batch = {"input_ids": torch.arange(8).view(4, 2)}
    totals, counts = task.losses(torch.cat([q, p]), batch)
    s = cosine_similarity(q.numpy(), p.numpy()) / 0.5
    there = [np.log(np.exp(s[i]).sum()) - s[i, i] for i in range(2)]
    back = [np.log(np.exp(s[:, i]).sum()) - s[i, i] for i in range(2)]
    np.testing.assert_allclose(totals.numpy(), np.add(there, back), rtol=1e-6)
    assert counts.tolist() == [2, 2]


def test_a_pair_with_the_same_passage_or_question_is_no_negative() -> None:
    outputs = normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    ids = torch.tensor([[1, 1], [2, 2], [1, 1], [7, 7], [8, 8], [9, 9]])  # the first and the last question are alike
    totals, _ = TASK.losses(outputs, {"input_ids": ids})
    without_last, _ = TASK.losses(outputs[[0, 1, 3, 4]], {"input_ids": ids[[0, 1, 3, 4]]})
    torch.testing.assert_close(totals[0], without_last[0])


def test_a_pair_alone_predicts_nothing() -> None:
    batch = {"input_ids": torch.arange(4).view(2, 2)}
    totals, counts = TASK.losses(torch.eye(2), batch)
    assert totals.tolist() == [0.0]
    assert counts.tolist() == [0]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_embedding_is_that_of_the_text_alone(pooling: str) -> None:
    """Padding and the other texts of a batch change nothing; hidden states are those of plain transformers."""
    loaded, task = backbone(), Retrieval(pooling=pooling)
    with torch.no_grad():
        together = task.outputs(loaded.model, task.collate(loaded.processor, 0)(rows(loaded.processor)))
        texts = [pair[side] for side in (0, 1) for pair in PAIRS]
        for row, text in zip(together, texts, strict=True):
            hidden = loaded.model(**loaded.processor(text, return_tensors="pt")).last_hidden_state[0]
            plain = hidden[0] if pooling == "cls" else hidden.mean(0)
            torch.testing.assert_close(row, plain / plain.norm())


def test_ranks_are_among_different_passages_and_ties_count_against() -> None:
    questions = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    passages = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])  # the last two are one passage
    found = TASK.score({"question": questions, "passage": passages, "digest": np.array([5, 9, 9], np.uint64)}, 0.0)
    assert found == {"recall_at_10": 1.0, "recall_at_1": 1.0, "mrr": 1.0}
    assert rank_of(questions, passages[:2], np.array([1, 0, 0])).tolist() == [2, 2, 2]
    collapsed = np.ones((20, 2))
    found = TASK.score({"question": collapsed, "passage": collapsed, "digest": np.arange(20).astype(np.uint64)}, 0.0)
    assert found == pytest.approx({"recall_at_10": 0.0, "recall_at_1": 0.0, "mrr": 1 / 20}), "it tells nothing apart"


def test_equal_passages_are_found_whatever_their_padding() -> None:
    loaded = backbone()
    pairs = [*PAIRS, ("another one", PAIRS[0][1])]
    collate = TASK.collate(loaded.processor, 0)
    wide, narrow = collate(rows(loaded.processor, pairs)), collate(rows(loaded.processor, pairs[3:]))
    digests = [TASK.measure(torch.zeros(len(batch["input_ids"]), 2), batch)["digest"] for batch in (wide, narrow)]
    assert digests[0][0] == digests[0][3] == digests[1][0]
    assert len(set(digests[0].tolist())) == 3


@pytest.mark.parametrize(
    ("model", "pooling", "reason"),
    [
        ("tiny-t5", "mean", "model.path: .*gives no hidden states"),
        ("tiny-llama", "cls", "task.pooling: .*the same embedding"),
    ],
)
def test_a_model_without_embeddings_is_refused(model: str, pooling: str, reason: str) -> None:
    loaded = backbone(model)
    task = Retrieval(pooling=pooling)
    tunable = Full().attach(loaded, task_type=task.peft_type, seed=0)
    with pytest.raises(RecipeError, match=reason):
        task.check_model(tunable, loaded.processor, model, DataSettings(train="x"))


def test_a_model_with_two_towers_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"model.path: builtin:tiny-clip is no model of texts alone"):
        backbone("tiny-clip")
