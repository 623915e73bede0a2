"""Behaviour of every kind of proxy for the server and its clients; the case without a proxy is one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedfm.models.backbones import Backbone
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Lora
from fedfm.params import digest
from fedfm.proxies import PROXIES
from fedfm.proxies.base import ClientModel, StaleProxyError
from fedfm.proxies.folder import load_proxy
from tests.models.cases import TASKS, batch, logits
from tests.models.deep import deep


def attach(model: Backbone) -> Tunable:
    return Lora(r=2).attach(model, task_type="SEQ_CLS", seed=0)


@pytest.fixture(scope="module", params=list(PROXIES))
def made(request: pytest.FixtureRequest) -> ClientModel:
    settings = PROXIES[request.param].sized(0.5, [0], "concat-l2", 1) or PROXIES[request.param]()
    return settings.at_server(deep("tiny-bert", "text", 5), attach, None, seed=0)


@pytest.fixture
def kind(made: ClientModel, request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["made"])


def test_plugging_in_is_undone(made: ClientModel) -> None:
    torch.manual_seed(0)
    tuned = {name: torch.randn_like(tensor) for name, tensor in made.start.items()}
    assert digest(made.from_backbone(made.to_backbone(tuned))) == digest(tuned)
    made.tunable.write(made.to_backbone(tuned))
    assert digest(made.from_backbone(made.tunable.read())) == digest(tuned)
    assert made.start.keys() == made.client_tunable.read().keys() == made.server_tunable.read().keys()


def test_a_client_that_downloads_computes_what_the_servers_copy_computes(made: ClientModel) -> None:
    version = made.prepare(made.start, lambda record: None)
    assert version.number == 0
    assert made.changes(version, 0) == {}
    made.load(version)
    made.client.download(version)
    made.client_tunable.write(made.start)
    made.server_tunable.write(made.start)
    inputs = batch(made.client.model)
    assert torch.equal(logits(made.client_tunable.model, inputs), logits(made.server_tunable.model, inputs))


def test_what_is_sent_is_what_the_settings_declare(made: ClientModel, kind: str, tmp_path: Path) -> None:
    sent = PROXIES[kind].is_sent
    assert bool(made.weights) == bool(made.sizes()) == sent
    assert made.download_bytes > 0
    version = made.prepare(made.start, lambda record: None)
    if not sent:
        with pytest.raises(ValueError, match="no proxy to save"):
            made.save(tmp_path, version)
        return
    made.save(tmp_path, version)
    proxy, manifest = load_proxy(tmp_path, TASKS["text"].auto_class)
    copy = manifest.settings.client_copy(proxy, manifest.kept_neurons, manifest.version)
    assert (copy.number, manifest.settings.kind) == (0, kind)
    assert digest(dict(proxy.model.state_dict())) == digest(
        {name: made.weights[name] for name in proxy.model.state_dict() if name in made.weights}
    )


def test_changes_of_a_model_that_does_not_change_are_refused(made: ClientModel) -> None:
    made.client.receive({}, since=0, number=made.client.number)  # nothing to do
    before = digest(dict(made.client.own)) if made.client.own else None
    with pytest.raises(StaleProxyError, match="another proxy than the one that the client holds"):
        made.client.receive({}, since=0, number=1)
    assert made.client.number == 0
    assert before == (digest(dict(made.client.own)) if made.client.own else None)


def test_counts_come_from_models_that_have_neurons_to_count(made: ClientModel) -> None:
    with made.client.counting(made.client_tunable) as counts:
        logits(made.client_tunable.model, batch(made.client.model))
    found = counts()
    assert made.activity_problem(found) is None
    assert made.activity_problem({**found, "more": torch.tensor(1)}) is not None
    assert not made.is_due(0)
