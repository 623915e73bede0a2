"""A client builds the proxy from its folder alone, and a folder with wrong content is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedfm.errors import DataError, RecipeError, StorageError
from fedfm.hosts.received import load_received
from fedfm.models.backbones import Backbone
from fedfm.models.families import attention_targets
from fedfm.params import digest
from fedfm.params import load as load_params
from fedfm.params import save as save_params
from fedfm.proxies.fedpft.construct import Kept, compressed_blocks, make_proxy, own_parameters
from fedfm.proxies.fedpft.settings import FedPFT
from fedfm.proxies.ffn import neurons
from fedfm.proxies.folder import Manifest, check_backbone, load_proxy, plain_tensors, read_manifest, save_proxy
from fedfm.proxies.matrix_packing import packings, round_in_place
from fedfm.proxies.settings import Bits
from tests.models.cases import CASES, CUT_KINDS, TASKS, Case, batch, load, logits

cases = pytest.mark.parametrize("case", CASES, ids="-".join)
BERT = ("tiny-bert", "text")


def made(case: Case = BERT, step: int = 3) -> tuple[Backbone, Backbone, Kept]:
    """A backbone, its proxy, and the neurons that the proxy keeps in every block."""
    backbone = load(*case)
    kept = {block.path: torch.arange(1, neurons(block), step) for block in compressed_blocks(backbone, [])}
    return backbone, make_proxy(backbone, kept), kept


def written(folder: Path, case: Case = BERT, **changes: Any) -> Manifest:
    _, proxy, kept = made(case)
    return save_proxy(folder, proxy, kept, FedPFT(), **changes)


def test_the_folder_of_the_backbone_is_not_named(tmp_path: Path) -> None:
    model = tmp_path / "servers" / "own-model"
    model.mkdir(parents=True)
    _, proxy, kept = made(BERT)
    save_proxy(tmp_path / "proxy", replace(proxy, name=str(model)), kept, FedPFT())
    assert read_manifest(tmp_path / "proxy").name == "own-model"
    for file in (tmp_path / "proxy").glob("*.json"):
        assert "servers" not in file.read_text(), file.name
    load_received(tmp_path / "proxy", TASKS[BERT[1]].auto_class)  # a site refuses a proxy that names paths


class Allocations(TorchDispatchMode):
    """The shapes of all tensors that operations make outside the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                self.shapes.add(tuple(tensor.shape))
        return result


@cases
def test_a_proxy_comes_back_bit_for_bit(tmp_path: Path, case: Case) -> None:
    backbone, proxy, kept = made(case)
    manifest = save_proxy(tmp_path, proxy, kept, FedPFT(), version=3)
    found, told = load_proxy(tmp_path, TASKS[case[1]].auto_class)
    assert told == manifest == read_manifest(tmp_path)
    assert told.version == 3
    assert {path: indices.tolist() for path, indices in told.kept_neurons.items()} == {
        path: indices.tolist() for path, indices in kept.items()
    }
    inputs = batch(backbone)
    assert batch(found).keys() == inputs.keys()
    assert torch.equal(logits(found.model, inputs), logits(proxy.model, inputs))
    fields = ("family", "name", "revision", "head", "new_head", "other_labels", "tunable_blocks")
    assert [getattr(found, field) for field in fields] == [getattr(proxy, field) for field in fields]
    assert found.model.name_or_path == proxy.model.name_or_path
    assert [name for name, _ in found.model.named_parameters()] == [name for name, _ in proxy.model.named_parameters()]
    for (name, mine), (_, theirs) in zip(found.model.named_buffers(), proxy.model.named_buffers(), strict=True):
        assert torch.equal(mine, theirs), name
    assert not any(parameter.requires_grad for parameter in found.model.parameters())
    assert not any(module.training for module in found.model.modules())


@pytest.mark.parametrize("case", [*CASES, *CUT_KINDS], ids="-".join)
def test_a_proxy_in_few_bits_comes_back_as_the_server_rounded_it(tmp_path: Path, case: Case) -> None:
    backbone, _, kept = made(case, step=4)
    settings = FedPFT(bits=Bits(attention=4, ffn=4, embeddings=8))
    proxy = make_proxy(backbone, kept, settings.bits)
    packed = packings(proxy.model, proxy.family, settings.wire_bits)
    round_in_place({matrix: packed[matrix] for matrix in own_parameters(proxy, kept).values() if matrix in packed})
    save_proxy(tmp_path, proxy, kept, settings)
    found, _ = load_proxy(tmp_path, TASKS[case[1]].auto_class)
    assert digest(dict(plain_tensors(found.model))) == digest(dict(plain_tensors(proxy.model)))
    heads = (*proxy.head, *proxy.family.heads, *proxy.family.language_heads, proxy.family.pooler or "no pooler")
    left = [
        name
        for name, weight in proxy.model.named_parameters()
        if weight.dim() > 1 and weight not in packed and not any(f"{head}." in name for head in heads)
    ]
    assert all("relative_attention_bias" in name or "vision_model.head" in name for name in left), left


@cases
def test_loading_never_makes_a_tensor_of_the_backbones_ffn(tmp_path: Path, case: Case) -> None:
    manifest = written(tmp_path, case)
    backbone = load(*case)
    full = {
        tuple(module.get_parameter("weight").shape)
        for block in compressed_blocks(backbone, [])
        for module in (block.module.get_submodule(path) for path in block.stack.ffn_matrices)
    }
    with Allocations() as seen:
        auto_class = TASKS[case[1]].auto_class
        found, _ = load_proxy(tmp_path, auto_class)
    full -= {tuple(parameter.shape) for parameter in found.model.parameters()}  # DeBERTa has other weights as large
    assert full
    assert not full & seen.shapes
    assert manifest.kept
    assert not any(tensor.is_meta for tensor in (*found.model.parameters(), *found.model.buffers()))
    assert not any(isinstance(value, Tensor) for module in found.model.modules() for value in vars(module).values())


def test_the_test_above_can_see_a_full_model() -> None:
    with Allocations() as seen:
        nn.Linear(16, 32)
    assert (32, 16) in seen.shapes


def test_nothing_that_the_proxy_hides_is_in_its_folder(tmp_path: Path) -> None:
    backbone, proxy, kept = made()
    save_proxy(tmp_path, proxy, kept, FedPFT())
    content = (tmp_path / "model.safetensors").read_bytes()
    for block in compressed_blocks(backbone, []):
        matrix = block.module.get_parameter("intermediate.dense.weight").detach()
        found = [row.numpy().tobytes() in content for row in matrix]
        assert [j for j, there in enumerate(found) if there] == kept[block.path].tolist()


def test_tied_weights_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    written(tmp_path, ("tiny-gpt2", "causal"))
    assert "lm_head.weight" not in load_params(tmp_path / "model.safetensors")
    model: Any = load_proxy(tmp_path, transformers.AutoModelForCausalLM)[0].model
    assert model.lm_head.weight is model.transformer.wte.weight


def test_a_loaded_proxy_takes_a_tunable_that_trains(tmp_path: Path) -> None:
    written(tmp_path)
    proxy, _ = load_proxy(tmp_path, TASKS["text"].auto_class)
    model: Any = get_peft_model(
        proxy.model, LoraConfig(r=2, target_modules=attention_targets(proxy.family), modules_to_save=list(proxy.head))
    )
    model(**batch(proxy)).logits.square().sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_a_proxy_is_saved_without_the_tunable_attached_to_it(tmp_path: Path) -> None:
    _, proxy, kept = made()
    before, inputs = logits(proxy.model, batch(proxy)), batch(proxy)
    targets = ["query", "intermediate.dense"]
    config = LoraConfig(r=2, target_modules=targets, modules_to_save=["classifier"], init_lora_weights=False)
    adapted = get_peft_model(proxy.model, config)
    assert not torch.equal(logits(adapted, inputs), before)
    save_proxy(tmp_path, proxy, kept, FedPFT())
    found, _ = load_proxy(tmp_path, TASKS["text"].auto_class)
    assert torch.equal(logits(found.model, inputs), before)


def test_a_proxy_of_other_weights_is_refused(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    backbone = load(*BERT)
    check_backbone(manifest, backbone)
    changed = backbone.identity.model_copy(update={"weights": "0" * 64, "processor": "1" * 64})
    said = r"proxy\.path: .*made of other weights and other tokenizer or image processor \(of builtin:tiny-bert\)"
    with pytest.raises(RecipeError, match=said):
        check_backbone(manifest, replace(backbone, identity=changed))


@pytest.mark.parametrize(
    "auto_class", [transformers.AutoModelForMaskedLM, transformers.AutoModelForImageClassification]
)
def test_a_proxy_for_another_task_is_refused(tmp_path: Path, auto_class: Any) -> None:
    written(tmp_path)
    with pytest.raises(RecipeError, match=r"proxy\.path: .* is a BertForSequenceClassification, made for another task"):
        load_proxy(tmp_path, auto_class)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"proxy\.path: .* is not a proxy's folder: .*fedfm proxy build"):
        read_manifest(tmp_path)


def test_a_folder_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "proxy.json").write_text('{"format": 1, "more": true}')
    with pytest.raises(RecipeError, match=r"proxy\.path: .* has format 1, and this fedfm reads format 2"):
        read_manifest(tmp_path)


def change(file: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        edit(content)
        (folder / file).write_text(json.dumps(content))

    return damage


def set_first_value(folder: Path) -> None:
    tensors = load_params(folder / "model.safetensors")
    min(tensors.items())[1].view(-1)[0] += 1
    save_params(tensors, folder / "model.safetensors")


def cut_short(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:100]) and None


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


FIRST = "encoder.layer.0"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a changed weight": (set_first_value, r"model\.safetensors does not have the digest in proxy\.json"),
    "cut weights": (cut_short("model.safetensors"), r"model\.safetensors cannot be read"),
    "no weights": (remove("model.safetensors"), r"model\.safetensors cannot be read"),
    "a cut manifest": (cut_short("proxy.json"), r"proxy\.json cannot be read"),
    "a manifest that is no object": (lambda folder: (folder / "proxy.json").write_text("[]") and None, "is damaged"),
    "no config": (remove("config.json"), r"config\.json cannot be read"),
    "no tokenizer": (remove("tokenizer.json"), "is incomplete .*tokenizer"),
    "an unknown key": (change("proxy.json", lambda made: made.update(more=1)), "is damaged .more:"),
    "a lost key": (change("proxy.json", lambda made: made.pop("backbone")), "is damaged .backbone:"),
    "descending neurons": (change("proxy.json", lambda made: made["kept"][FIRST].reverse()), "must ascend"),
    "repeated neurons": (change("proxy.json", lambda made: made["kept"].update({FIRST: [1, 1]})), "must ascend"),
    "no neurons": (change("proxy.json", lambda made: made["kept"].update({FIRST: []})), "must ascend"),
    "a negative neuron": (change("proxy.json", lambda made: made["kept"][FIRST].insert(0, -1)), "must ascend"),
    "a neuron too many": (change("proxy.json", lambda made: made["kept"][FIRST].append(32)), "no such neurons in"),
    "an unknown block": (change("proxy.json", lambda made: made["kept"].update(more=[1])), "no such neurons in more"),
    "other neurons": (change("proxy.json", lambda made: made["kept"][FIRST].pop()), "do not fit its config"),
    "another config": (change("config.json", lambda made: made.update(num_hidden_layers=3)), "do not fit its config"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused(tmp_path: Path, damage: str) -> None:
    written(tmp_path)
    act, message = DAMAGES[damage]
    act(tmp_path)
    with pytest.raises(DataError, match=message):
        load_proxy(tmp_path, TASKS["text"].auto_class)


def test_no_link_in_a_folder_is_followed(tmp_path: Path) -> None:
    written(tmp_path / "proxy")
    (tmp_path / "proxy" / "model.safetensors").rename(tmp_path / "elsewhere")
    (tmp_path / "proxy" / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="is a symbolic link"):
        read_manifest(tmp_path / "proxy")
