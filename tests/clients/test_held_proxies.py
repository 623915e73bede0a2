"""A client trains on the proxy that it holds, and reports the version of that proxy."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fedfm.proxies.fedpft.activity import from_params
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.updates import Failure, Update, decode_update
from fedfm.updates.payload import ACTIVITY
from tests.asked import instruction, trained
from tests.small import small_recipe

PROXY = {"kind": "fedpft", "ffn_keep": 0.5, "keep_layers": [], "closed_form": False, "distill": None, "interval": None}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    recipe = small_recipe(tmp_path_factory.mktemp("data"), proxy=PROXY)
    return build_experiment(load_recipe(recipe))


def answer(experiment: Experiment, *, accepts: bool = False, **facts: Any) -> Update | Failure:
    """What client 0 says to an instruction."""
    worker = dataclasses.replace(experiment.worker, trains_stale=accepts)
    (said,) = trained(worker, {"0": instruction(experiment.start, **facts)}).values()
    return said if isinstance(said, Failure) else decode_update(said)


def test_the_version_is_told(experiment: Experiment) -> None:
    said = answer(experiment)
    assert not isinstance(said, Failure)
    assert said.facts.proxy_version == 0
    assert ACTIVITY not in said.groups


def test_a_proxy_that_cannot_be_brought_up_to_date_fails_as_such(experiment: Experiment) -> None:
    said = answer(experiment, proxy_version=3, proxy_since=2)
    assert isinstance(said, Failure)
    assert said.stale
    assert "holds version 0" in said.reason


def test_it_is_trained_on_all_the_same_where_that_is_allowed(experiment: Experiment) -> None:
    said = answer(experiment, accepts=True, proxy_version=3, proxy_since=2)
    assert not isinstance(said, Failure)
    assert said.facts.proxy_version == 0


def test_neurons_are_counted_where_that_is_asked(experiment: Experiment) -> None:
    said = answer(experiment, count_activity=True)
    assert not isinstance(said, Failure)
    counted = from_params(dict(said.groups[ACTIVITY]))
    assert sorted(counted) == ["encoder.layer.0", "encoder.layer.1"]
    for activity in counted.values():
        assert activity.zeros.shape == (16,)
        assert activity.tokens > 0
        assert (activity.near_zeros <= activity.tokens).all()


def test_the_backbone_of_the_server_is_not_what_a_client_trains(experiment: Experiment) -> None:
    before = {name: tensor.clone() for name, tensor in experiment.tunable.read().items()}
    answer(experiment)
    assert all(torch.equal(tensor, before[name]) for name, tensor in experiment.tunable.read().items())
