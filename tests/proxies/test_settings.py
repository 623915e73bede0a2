"""Refusals of the proxy's settings, and what settings mean together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fedfm.proxies.fedpft.settings import FedPFT


@pytest.mark.parametrize("align", [{}, {"score": "auto"}, {"score": "apoz", "data": "clients"}, {"steps": 3}])
def test_reproducing_counts_zeros_on_clients_data(align: dict[str, Any]) -> None:
    settings = FedPFT.model_validate({"reproduce": True, "align": align})
    assert (settings.alignment.score, settings.alignment.data) == ("apoz", "clients")
    assert settings.alignment.steps == align.get("steps", 50)
    assert FedPFT.model_validate(settings.model_dump()) == settings  # as a run's recipe is read again


@pytest.mark.parametrize("score", ["contribution", "soft-apoz"])
def test_reproducing_with_another_score_is_refused(score: str) -> None:
    with pytest.raises(ValidationError, match=f"reproduce means align.score: apoz, not {score}; leave one"):
        FedPFT.model_validate({"reproduce": True, "align": {"score": score}})
    with pytest.raises(ValidationError, match=r"reproduce means alignment by steps, not align\.closed_form; leave one"):
        FedPFT.model_validate({"reproduce": True, "align": {"closed_form": True}})
    assert FedPFT.model_validate({"align": {"score": score}}).alignment.score == score


def test_a_recipe_without_alignment_settings_has_the_regression() -> None:
    assert FedPFT.model_validate({}).alignment.closed_form
    assert not FedPFT.model_validate({"align": {"steps": 5}}).alignment.closed_form
    assert not FedPFT.model_validate({"reproduce": True}).alignment.closed_form
    assert FedPFT.model_validate({"reproduce": True}).counts_at_clients


def test_a_regression_in_place_of_steps_has_none_of_their_settings() -> None:
    settings = FedPFT.model_validate({"align": {"closed_form": True}})
    assert FedPFT.model_validate(settings.model_dump()) == settings  # as a run's folder and a proxy's have it
    with pytest.raises(ValidationError, match="steps is of alignment by steps: set closed_form to false"):
        FedPFT.model_validate({"align": {"closed_form": True, "steps": 5}})
    assert FedPFT.model_validate({"align": {"closed_form": True, "ridge": 1.0}}).alignment.ridge == 1.0
    with pytest.raises(ValidationError, match="ridge is of the regression: set closed_form to true, or leave it out"):
        FedPFT.model_validate({"align": {"ridge": 1.0}})
