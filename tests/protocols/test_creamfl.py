"""CreamFL: weights by hand, what crosses, how embeddings are drawn to their partners, whole runs, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from fedfm import run
from fedfm.clients.distilling import Distilling
from fedfm.clients.representations import PairReader
from fedfm.data.packed_pairs import pack_images, pack_tokens, unpack_images, unpack_tokens
from fedfm.errors import RecipeError
from fedfm.protocols import CreamFL
from fedfm.protocols.creamfl import CrossModalMean
from fedfm.recipe import Recipe, load_recipe
from fedfm.records import jsonl
from fedfm.server.experiment.build import Experiment, build_experiment


def values(folder: Path, **changes: Any) -> dict[str, Any]:
    digits = {"train": "builtin:digits-captions", "test": "builtin:digits-captions"}
    whole: dict[str, Any] = {
        "name": "cream",
        "output": str(folder),
        "model": {"path": "builtin:tiny-clip"},
        "task": {"kind": "image-text", "temperature": 0.1},
        "data": {**digits, "text": "captions", "max_length": 32, "limit": 60},
        "public": {"data": "builtin:digits-captions", "text": "captions", "limit": 40},
        "federation": {"clients": 3, "rounds": 1, "modalities": {"1": "image", "2": "text"}},
        "local": {"batch_size": 8, "max_steps": 1, "learning_rate": 0.01},
        "tune": {"kind": "full"},
        "protocol": {"kind": "creamfl", "examples": 12, "steps": 3, "batch_size": 6, "align_steps": 2},
        "runtime": {"kind": "local", "processes": 1, "threads": 1},
    }
    return {**whole, **changes}


@lru_cache
def built() -> Experiment:
    with TemporaryDirectory() as folder:
        return build_experiment(load_recipe(values(Path(folder))))


def packed(count: int) -> tuple[list[dict[str, Any]], Mapping[str, torch.Tensor]]:
    rows = built().public_pairs.take(np.arange(count))
    texts = [row["captions"][0].tolist() for row in rows]
    return rows, {**pack_images([row["pixel_values"] for row in rows]), **pack_tokens(texts)}


def test_a_client_counts_for_a_pair_by_how_well_it_finds_the_partner() -> None:
    generator, temperature = torch.Generator().manual_seed(0), 0.2
    anchors, one, two = (
        normalize(torch.randn(4, 3, generator=generator, dtype=torch.float64), dim=-1) for _ in range(3)
    )
    mean = CrossModalMean(anchors.float(), temperature)
    assert mean.result() is None
    mean.add(one.float())
    mean.add(3 * two.float())  # its length does not count
    found = mean.result()
    assert found is not None
    for pair in range(4):
        scores = []
        for own in (one, two):
            products = [float(own[pair] @ anchor) / temperature for anchor in anchors]
            scores.append(products[pair] - float(torch.tensor(products).logsumexp(0)))
        first, second = torch.tensor(scores, dtype=torch.float64).softmax(0).tolist()
        expected = first * one[pair] + second * two[pair]
        torch.testing.assert_close(found[pair].double(), expected, rtol=1e-5, atol=1e-6)


def test_pairs_travel_as_they_are() -> None:
    rows, tensors = packed(5)
    pixels, texts = unpack_images(tensors), unpack_tokens(tensors)
    assert pixels is not None
    assert np.array_equal(pixels.numpy(), np.stack([row["pixel_values"] for row in rows]))
    assert texts == [row["captions"][0].tolist() for row in rows]
    assert (unpack_images({}), unpack_tokens({})) == (None, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pixels": torch.zeros(2, 3, 8, 8)}, "`pixels` must be uint8"),
        ({"ends": None}, "tokens travel as two tensors"),
        ({"ids": torch.zeros(3)}, "`ids` must be int32"),
        ({"ends": torch.tensor([1, 1])}, "do not end where"),
    ],
)
def test_what_is_no_public_pair_is_refused(changes: Mapping[str, Any], reason: str) -> None:
    _, tensors = packed(2)
    broken = {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}
    with pytest.raises(ValueError, match=reason):
        PairReader(built().student.evaluator).represent(broken)


def test_a_client_without_texts_learns_where_the_captions_of_public_images_are() -> None:
    _, tensors = packed(12)
    reader, start = PairReader(built().student.evaluator), built().start
    tunable = reader.evaluator.tunable
    tunable.write(dict(start))
    anchors, images = reader.represent(tensors), {"pixels": tensors["pixels"]}
    settings = Distilling(30, 12, 5e-3, 0.1)

    def chance() -> float:
        scores = reader.represent(images)["image"] @ anchors["text"].T / settings.temperature
        return float(scores.softmax(-1).diagonal().mean())

    before = chance()
    reader.align(images, {"text": anchors["text"]}, settings, round=1, client="a")
    assert chance() > before
    after = tunable.read()
    assert all(torch.equal(after[name], start[name]) for name in after if "text_model" in name)
    with pytest.raises(ValueError, match="embedding of the text of each of the 12 pairs"):
        reader.align(images, {"image": anchors["image"]}, settings, round=1, client="a")
    tunable.write(dict(start))


def test_the_server_moves_to_what_clients_say() -> None:
    rows, tensors = packed(12)
    reader, start = PairReader(built().student.evaluator), built().start
    reader.evaluator.tunable.write(dict(start))
    wanted = normalize(torch.randn(12, 16, generator=torch.Generator().manual_seed(1)), dim=-1)

    def distance() -> float:
        return float((reader.represent(tensors)["image"] - wanted).square().sum(-1).mean())

    before = distance()
    reader.distil(rows, {"image": wanted}, Distilling(30, 12, 5e-3, 0.1), 10.0, round=1)
    assert distance() < 0.8 * before
    reader.evaluator.tunable.write(dict(start))


def test_clients_send_embeddings_of_what_they_have_and_no_weights(tmp_path: Path) -> None:
    finished = run(values(tmp_path))
    assert finished.summary["status"] == "completed"
    assert finished.summary["clients"]["failed"] == 0
    assert finished.summary["protocol"]["distillation_loss"] > 0
    lines = [line for line in jsonl.records(finished.folder.wire) if line["work"] == "represent"]
    sent = {line["clients"][0]: [t["name"] for t in line["tensors"]] for line in lines if line["direction"] == "up"}
    image, text = "representations/image", "representations/text"
    assert {client: sorted(names) for client, names in sent.items()} == {"0": [image, text], "1": [image], "2": [text]}
    got = {line["clients"][0]: {t["name"] for t in line["tensors"]} for line in lines if line["direction"] == "down"}
    assert {"public/pixels", text} <= got["1"]
    assert {"public/ids", "public/ends", image} <= got["2"]
    assert not {"public/ids", image} & got["1"]
    assert not {"public/pixels", text} & got["2"]
    assert not [name for name in got["1"] if "text_model" in name]


REFUSED = {
    "a classifier": ({"task": {"kind": "image-classification"}, "federation": {"clients": 3}}, "needs two towers"),
    "no public pairs": ({"public": None}, "uses public examples"),
    "a step of the server": ({"algorithm": {"name": "fedadam"}}, "the server's step is distillation"),
    "votes about one tower": ({"protocol": {"kind": "fedkseed"}, "public": None}, "folds what a client returns into"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_does_not_go_with_is_refused(case: str, tmp_path: Path) -> None:
    changes, reason = REFUSED[case]
    with pytest.raises(RecipeError, match=reason):
        Recipe.model_validate(values(tmp_path, **changes))


def test_projections_that_are_not_tuned_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"the projections to the common space must be tuned: set tune\.head=true"):
        run(values(tmp_path, tune={"kind": "lora", "r": 2, "head": False}))


def test_more_pairs_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a round needs 64 public examples, but `public` has only 40"):
        run(values(tmp_path, protocol={"kind": "creamfl", "examples": 64}))


def test_what_crosses_is_planned() -> None:
    protocol = built().recipe.protocol
    assert isinstance(protocol, CreamFL)
    answers = protocol.answers("represent", 0, built().contract.spec)
    shapes = {name: spec.shape for name, spec in answers["representations"].items()}
    assert shapes == {"image": (12, 16), "text": (12, 16)}
