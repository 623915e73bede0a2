"""Ditto by hand: the pull of a client's own model, and what the recipe refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedfm.algorithms import At, Ditto, FedAvg
from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from tests.small import small_recipe


def test_a_clients_own_model_is_pulled_towards_what_was_received() -> None:
    at = At(torch.tensor(1.0), lr=0.5)
    pulled = Ditto(lam=0.5).personal_rule.gradient(torch.tensor(2.0), torch.tensor(3.0), at)
    assert pulled.item() == 2.0 + 0.5 * (3.0 - 1.0)


def test_what_is_sent_is_trained_as_in_fedavg() -> None:
    assert Ditto().gradient(torch.tensor(2.0), torch.tensor(3.0), At(torch.tensor(1.0))).item() == 2.0
    assert FedAvg().personal_rule is None


def test_personal_parts_beside_it_are_refused(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, algorithm={"name": "ditto"})
    with pytest.raises(RecipeError, match="whole views"):
        load_recipe(recipe, ["tune.share=not head"])
