"""Proxies in few bits: server, clients of a simulation and clients that download compute with the same values."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from fedfm.data.settings import PublicSettings
from fedfm.errors import DataError, RecipeError
from fedfm.hosts.received import load_received
from fedfm.models.backbones import Backbone
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Lora
from fedfm.params import digest, load, save
from fedfm.proxies import PROXIES
from fedfm.proxies.base import ClientCopy, ModelVersion, StaleProxyError
from fedfm.proxies.folder import plain_tensors, read_manifest
from fedfm.proxies.pair import make_pair
from fedfm.proxies.proxy_model import ProxyModel
from fedfm.tasks.public import PublicData, read_public
from fedfm.wire import from_bytes, stored_bytes, to_bytes
from tests.models.cases import TASKS, batch, logits
from tests.models.deep import deep

BITS = {"attention": 4, "ffn": 8, "embeddings": 8}
FIT = {"steps": 2, "batch_size": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "fedpft": {"ffn_keep": 0.5, "keep_layers": [0], "distill": FIT, "align": FIT, "interval": 1, "probe": 2},
    "offsite": {"layers": 3, "adapters": 1, "distill": FIT, "probe": 2},
}
"""Of each kind that is sent: some matrices are fitted, others are not."""


def backbone() -> Backbone:
    return deep("tiny-bert", "text", 4)


def attach(model: Backbone) -> Tunable:
    return Lora(r=2).attach(model, task_type="SEQ_CLS", seed=0)


def public(model: Backbone) -> PublicData:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "public.jsonl"
        file.write_text("".join(f'{{"text": "thing {number} of many"}}\n' for number in range(16)))
        return read_public(PublicSettings(data=str(file)), model.processor, max_length=12, seed=0, allow_network=False)


def at_server(kind: str, **changes: Any) -> ProxyModel:
    model = backbone()
    settings = PROXIES[kind].model_validate({**SETTINGS[kind], "bits": BITS, **changes})
    made = settings.at_server(model, attach, public(model), seed=0)
    assert isinstance(made, ProxyModel)
    return made


class Made:
    """A proxy at its first version, and at the next where there is one; ``downloaded`` is a client with the first."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.model = at_server(kind)
        self.stages: list[dict[str, Any]] = []
        self.version = self.model.prepare(self.model.start, self.stages.append)
        self.download = {name: tensor.detach().clone() for name, tensor in self.model.weights.items()}
        self.sizes = self.model.sizes()
        self.folder = folder
        self.model.save(folder, self.version)
        self.downloaded = load_received(folder, TASKS["text"].auto_class)
        self.tunable = attach(self.downloaded.model)
        self.first = self.on_client(self.downloaded, self.tunable), self.at_server(self.version)
        self.next: ModelVersion | None = None
        if self.model.is_due(1):
            self.next = self.model.advance(self.version, self.model.start, 1, {}, self.stages.append)

    def at_server(self, version: ModelVersion) -> torch.Tensor:
        self.model.load(version)
        self.model.server_tunable.write(self.model.start)
        return logits(self.model.server_tunable.model, batch(self.model.client.model))

    def on_client(self, copy: ClientCopy, tunable: Tunable) -> torch.Tensor:
        tunable.write(self.model.start)
        return logits(tunable.model, batch(copy.model))


@pytest.fixture(scope="module", params=SETTINGS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def fedpft(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made("fedpft", tmp_path_factory.mktemp("proxy"))


def test_all_compute_with_the_values_that_are_sent(made: Made) -> None:
    downloaded, server = made.first
    assert torch.equal(downloaded, server)
    made.model.client.download(made.version)
    assert torch.equal(made.on_client(made.model.client, made.model.client_tunable), server)
    for name, packing in made.model.pair.packed.items():
        tensor = dict(plain_tensors(made.model.pair.proxy.model))[name]
        assert torch.equal(packing.round(tensor), tensor), name


def test_what_is_fitted_is_rounded_after_it_and_compared(made: Made) -> None:
    names = [stage["stage"] for stage in made.stages]
    assert names[names.index("distilled") + 1] == "quantised"
    packed = made.model.pair.packed_own
    assert packed
    assert all(
        torch.equal(packing.round(made.version.own[name]), made.version.own[name]) for name, packing in packed.items()
    )


def test_the_backbone_keeps_its_values(made: Made) -> None:
    before, after = dict(plain_tensors(backbone().model)), dict(plain_tensors(made.model.pair.backbone.model))
    assert digest(before) == digest({n: after[n] for n in before})


def test_the_download_is_small_and_its_size_is_known_before_it_is_made(made: Made) -> None:
    assert made.model.download_bytes == stored_bytes(made.download) == len(to_bytes(made.download))
    file = made.folder / "model.safetensors"
    assert abs(file.stat().st_size - made.model.download_bytes) < 64  # two writers pad headers differently
    stored = load(file)
    assert digest(stored) == digest(made.download) == read_manifest(made.folder).weights
    packed = made.model.pair.packed
    left = {name for name, tensor in plain_tensors(made.model.pair.proxy.model) if tensor.dim() > 1} - packed.keys()
    assert not any("layer" in name or "word_embeddings" in name for name in left)
    plain = sum(tensor.nbytes for _, tensor in plain_tensors(made.model.pair.proxy.model))
    assert sum(tensor.nbytes for tensor in stored.values()) < 0.45 * plain  # rows of 16 values: scales count


def test_a_client_that_receives_changes_has_the_servers_values(fedpft: Made) -> None:
    assert fedpft.next is not None
    assert fedpft.next.number == 1
    changes = fedpft.model.changes(fedpft.next, 0)
    assert {tensor.dtype for name, tensor in changes.items() if name.endswith(".codes")} == {torch.int8}
    message = dict(from_bytes(to_bytes(changes))[0])
    with pytest.raises(StaleProxyError, match=r"is there without .*scales"):
        fedpft.downloaded.receive({n: t for n, t in message.items() if not n.endswith("scales")}, since=0, number=1)
    wrong = {name: torch.full_like(t, torch.nan) if name.endswith("scales") else t for name, t in message.items()}
    with pytest.raises(StaleProxyError, match="a scale is negative or not finite"):
        fedpft.downloaded.receive(wrong, since=0, number=1)
    assert digest(dict(fedpft.downloaded.own)) == digest(fedpft.version.own)
    fedpft.downloaded.receive(message, since=0, number=1)
    assert digest(dict(fedpft.downloaded.own)) == digest(fedpft.next.own) != digest(fedpft.version.own)
    assert torch.equal(fedpft.on_client(fedpft.downloaded, fedpft.tunable), fedpft.at_server(fedpft.next))


def test_changes_cost_what_is_announced(fedpft: Made) -> None:
    assert fedpft.next is not None
    assert fedpft.model.alignment_bytes == stored_bytes(fedpft.model.changes(fedpft.next, 0))


def test_neurons_that_alignment_does_not_choose_keep_their_values(fedpft: Made) -> None:
    assert fedpft.next is not None
    name = next(name for name in fedpft.version.own if name.endswith("intermediate.dense.weight"))
    same = fedpft.next.changed[name] == 0
    assert same.any()
    assert torch.equal(fedpft.next.own[name][same], fedpft.version.own[name][same])


def test_disclosure_is_that_of_the_rounded_values() -> None:
    plain, eight, four = (
        at_server("fedpft", bits=bits).sizes()["disclosed"]
        for bits in (None, {"attention": 8, "ffn": 8}, {"attention": 4, "ffn": 4})
    )
    assert plain == eight > four  # 4 bits move most rows to a cosine below 0.999


@pytest.mark.parametrize("bits", [{"attention": 4}, {"ffn": 4}], ids=str)
def test_closed_form_makes_up_for_rounding(bits: dict[str, int]) -> None:
    errors = []
    for closed_form in (False, True):
        found: list[dict[str, Any]] = []
        model = at_server("fedpft", ffn_keep=1.0, distill=None, interval=None, bits=bits, closed_form=closed_form)
        model.prepare(model.start, found.append)
        errors.append(found[-1]["hidden_error"])
    assert 0 < errors[1] < 0.9 * errors[0]


def test_a_folder_is_taken_with_its_bits_and_refused_beside_others(fedpft: Made) -> None:
    def pair(**changes: Any) -> Any:
        settings = PROXIES["fedpft"].model_validate({"path": str(fedpft.folder), **changes})
        return make_pair(settings, backbone(), None, seed=0)

    for taken in (pair(), pair(bits=BITS)):
        assert taken.loaded
        assert digest(taken.read()) == digest(fedpft.version.own)
        assert taken.packed == fedpft.model.pair.packed
    with pytest.raises(RecipeError, match=r"`proxy.path`\) was built with attention=4, ffn=8, embeddings=8") as caught:
        pair(bits={"attention": 8})
    assert caught.value.problems[0].where == "proxy.bits"


def test_a_folder_with_other_integers_than_its_settings_say_is_refused(fedpft: Made, tmp_path: Path) -> None:
    for file in fedpft.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    stored = load(tmp_path / "model.safetensors")
    name = next(name for name in stored if name.endswith("query.weight.codes"))
    stored[name] = torch.zeros(3, dtype=torch.uint8)
    (tmp_path / "model.safetensors").unlink()
    save(stored, tmp_path / "model.safetensors")
    manifest = tmp_path / "proxy.json"
    manifest.write_text(manifest.read_text().replace(read_manifest(tmp_path).weights, digest(stored)))
    with pytest.raises(DataError, match=r"is damaged \(.*query.weight: its codes are"):
        load_received(tmp_path, TASKS["text"].auto_class)
