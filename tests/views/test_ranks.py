"""Heterogeneous ranks: the rank of each client, and its part of the factors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.spec import TensorSpec
from fedfm.views import Ranks, holds, narrow_spec
from fedfm.views.ranks import rank_dimension
from tests.small import small_recipe

SPEC = {
    "q.lora_A.weight": TensorSpec((8, 5)),
    "q.lora_B.weight": TensorSpec((6, 8)),
    "conv.lora_A.weight": TensorSpec((8, 3, 2, 2)),
    "conv.lora_B.weight": TensorSpec((6, 8, 1, 1)),
    "e.lora_embedding_A": TensorSpec((8, 50)),
    "e.lora_embedding_B": TensorSpec((4, 8)),
    "q.lora_magnitude_vector": TensorSpec((6,)),
    "classifier.weight": TensorSpec((2, 5)),
}


def recipe(ranks: Any, **tune: Any) -> Any:
    return SimpleNamespace(
        seed=3, tune=SimpleNamespace(**{"kind": "lora", "r": 8, **tune}), federation=SimpleNamespace(ranks=ranks)
    )


def test_a_client_holds_leading_rows_of_a_and_columns_of_b() -> None:
    held = Ranks((3,)).held(SPEC, "a", 1)
    shapes = {name: tensor.shape for name, tensor in narrow_spec(SPEC, held).items()}
    assert shapes == {
        "q.lora_A.weight": (3, 5),
        "q.lora_B.weight": (6, 3),
        "conv.lora_A.weight": (3, 3, 2, 2),
        "conv.lora_B.weight": (6, 3, 1, 1),
        "e.lora_embedding_A": (3, 50),
        "e.lora_embedding_B": (4, 3),
        "q.lora_magnitude_vector": (6,),
        "classifier.weight": (2, 5),
    }
    mask = holds(held, "q.lora_B.weight", (6, 8))
    assert mask[:, :3].all()
    assert not mask[:, 3:].any()


def test_the_whole_rank_is_everything() -> None:
    assert not any(Ranks((8,)).held(SPEC, "a", 1).values())


def test_a_list_is_dealt_by_client_and_seed_and_is_the_same_every_round() -> None:
    view = Ranks.of(recipe([1, 4]))
    assert view is not None
    clients = [f"{number:03d}" for number in range(200)]
    ranks = [view.rank(client) for client in clients]
    assert ranks == [view.rank(client) for client in reversed(clients)][::-1]
    assert 70 <= Counter(ranks)[1] <= 130
    assert ranks != [Ranks((1, 4), seed=4).rank(client) for client in clients]
    assert view.held(SPEC, "007", 1) == view.held(SPEC, "007", 9)


def test_of_a_mapping_the_first_pattern_counts_and_others_have_the_whole_rank() -> None:
    view = Ranks.of(recipe({"phone-1": 4, "phone-*": 2}))
    assert view is not None
    assert [view.rank(client) for client in ("phone-1", "phone-2", "server")] == [4, 2, None]
    assert not any(view.held(SPEC, "server", 1).values())


@pytest.mark.parametrize(
    ("ranks", "tune", "reason"),
    [
        ([2, 16], {}, "rank 16 exceeds `tune.r: 8`"),
        ({"*": 9}, {}, "rank 9 exceeds `tune.r: 8`"),
        ([2], {"kind": "ia3", "r": None}, "`tune.kind: ia3` does not have; use lora or dora"),
    ],
)
def test_what_does_not_fit_the_tunable_is_refused(ranks: Any, tune: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        Ranks.of(recipe(ranks, **tune))


@pytest.mark.parametrize("ranks", [[2, 16], {"a*": 2, "b*": 16}])
def test_too_large_a_rank_is_refused_when_the_recipe_is_read(tmp_path: Path, ranks: Any) -> None:
    federation = {"clients": 6, "per_round": 3, "rounds": 1, "ranks": ranks}
    with pytest.raises(RecipeError, match=r"federation\.ranks: rank 16 exceeds `tune\.r: 8`"):
        load_recipe(small_recipe(tmp_path, federation=federation))


def test_only_factors_have_ranks() -> None:
    assert [rank_dimension(name) for name in SPEC] == [0, 1, 0, 1, 0, 1, None, None]
