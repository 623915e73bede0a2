"""Chosen tensors: the choice of the server, and what does not fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fedfm.spec import Spec, TensorSpec
from fedfm.views import ChosenParts, Ranks, Views, choice_of, is_whole, narrow_spec

SPEC: Spec = {"b": TensorSpec((2,)), "a.lora_A.weight": TensorSpec((4, 3)), "c": TensorSpec((1,))}


def test_a_client_gets_everything_and_holds_what_is_chosen() -> None:
    views = Views((ChosenParts(),)).under(choice_of({"a.lora_A.weight", "c"}, SPEC), SPEC)
    assert set(views.held(SPEC, "x", 1)) == {"a.lora_A.weight", "c"}
    assert is_whole(views.gets(SPEC, "x", 1), SPEC)


def test_without_a_choice_it_is_about_everything() -> None:
    views = Views((ChosenParts(),))
    assert views.under({}, SPEC) is views
    assert is_whole(views.held(SPEC, "x", 1), SPEC)
    assert not views.whole


def test_it_meets_other_views() -> None:
    views = Views((Ranks((2,)), ChosenParts())).under(choice_of({"a.lora_A.weight"}, SPEC), SPEC)
    held = narrow_spec(SPEC, views.held(SPEC, "x", 1))
    assert held == {"a.lora_A.weight": TensorSpec((2, 3))}


@pytest.mark.parametrize(
    "choice",
    [
        {"tensors": torch.ones(2, dtype=torch.bool)},
        {"tensors": torch.ones(3)},
        {"tensors": torch.ones((3, 1), dtype=torch.bool)},
        {"other": torch.ones(3, dtype=torch.bool)},
    ],
)
def test_a_choice_that_does_not_fit_is_refused(choice: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="tensors"):
        Views((ChosenParts(),)).under(choice, SPEC)


def test_a_choice_is_refused_where_no_view_depends_on_it() -> None:
    choice = choice_of({"b"}, SPEC)
    for views in (Views(), Views((Ranks((2,)),))):
        with pytest.raises(ValueError, match="no part of the tunable is chosen"):
            views.under(choice, SPEC)


def test_only_a_recipe_that_chooses_has_it() -> None:
    assert ChosenParts.of(SimpleNamespace(select=SimpleNamespace(chooses=False))) is None
    assert ChosenParts.of(SimpleNamespace(select=SimpleNamespace(chooses=True))) == ChosenParts()
