"""Generators, and scores of texts against scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics.pairwise import euclidean_distances, polynomial_kernel

from fedfm.models.builtin import write_random_model
from fedfm.synthetic import PromptedModel, Templates
from fedfm.synthetic.scores import distinct, kernel_distance, nearer_to_first, nearest


def test_the_kernel_distance_is_the_unbiased_estimate() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 8)), rng.standard_normal((20, 8)) + 1
    xx, yy = (polynomial_kernel(a, degree=3, gamma=1 / 8, coef0=1) for a in (x, y))
    off = [k[~np.eye(len(k), dtype=bool)].mean() for k in (xx, yy)]
    expected = sum(off) - 2 * polynomial_kernel(x, y, degree=3, gamma=1 / 8, coef0=1).mean()
    assert kernel_distance(x, y) == pytest.approx(expected)
    alike = [kernel_distance(*rng.standard_normal((2, 30, 8))) for _ in range(200)]
    assert abs(np.mean(alike)) < 4 * np.std(alike) / np.sqrt(200)
    assert kernel_distance(x, y) > 10 * np.std(alike)


def test_distances_and_diversity() -> None:
    rng = np.random.default_rng(0)
    x, y, z = rng.standard_normal((3, 20, 8))
    np.testing.assert_allclose(nearest(x, y), euclidean_distances(x, y).min(1))
    assert nearer_to_first(y, y, z) == 1.0
    assert nearer_to_first(x, y, y) == 0.5
    assert distinct(["a b a b", "a b"], 1) == pytest.approx(2 / 6)
    assert distinct(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert distinct([""], 1) == 0.0


def test_a_variation_changes_one_slot() -> None:
    generator = Templates(
        templates=["{who} saw {what}; {who} ran from {label}"], slots={"who": list("abc"), "what": ["x", "y"]}
    )
    writer = generator.writer(0)
    first = writer.first("L", 20, 1)
    assert len({*first}) == 6
    varied = writer.varied(first, "L", 2)
    assert varied == writer.varied(first, "L", 2) != first
    for before, after in zip(first, varied, strict=True):
        assert (before[0] == after[0]) or (before[6] == after[6])
        assert after[0] == after[9]
        assert after.endswith("ran from L")
    assert writer.varied(["of no template"], "L", 0)[0].endswith("from L")
    with pytest.raises(ValidationError, match="`nowhere`"):
        Templates(templates=["{nowhere}"])


def test_a_language_model_writes_and_one_with_code_is_refused(tmp_path: Path) -> None:
    generator = PromptedModel(path="builtin:tiny-llama", max_new_tokens=6)
    writer = generator.writer(0)
    texts = writer.first("sport", 3, 5)
    assert texts == generator.writer(0).first("sport", 3, 5) != writer.first("sport", 3, 6)
    assert all(text.strip() for text in texts)
    varied = writer.varied(["one two three four"], "sport", 0)
    assert varied[0].startswith("one two")
    write_random_model("tiny-llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    with pytest.raises(ValidationError, match="never runs code"):
        PromptedModel(path=str(tmp_path))
