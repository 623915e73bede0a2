"""A proxy as a folder in the format of transformers: all that a client needs, and nothing that the proxy hides.

``config.json``, ``model.safetensors`` (every parameter and buffer, head included; tied ones once; matrices as integers
and scales where ``proxy.bits`` says so), the files of the tokenizer or image processor, and ``proxy.json``, the
`Manifest`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from pydantic import AfterValidator, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fedfm.errors import DataError, RecipeError
from fedfm.models.backbones import Backbone, agree_on_tokens
from fedfm.models.checkpoints import PretrainedCheckpoint
from fedfm.models.configs import read_config
from fedfm.models.families import blocks, family_of
from fedfm.models.identity import ModelIdentity
from fedfm.models.processors import Modality, read_processor
from fedfm.models.quiet import quiet
from fedfm.params import Params, digest, load, save
from fedfm.plain_files import refuse_links
from fedfm.proxies import AnyProxy, ProxySettings
from fedfm.proxies.ffn import Kept, keep_neurons, neurons
from fedfm.proxies.matrix_packing import MatrixPacking, named, pack, packings, unpack
from fedfm.settings import Settings

FORMAT: Final = 2
"""Of folders that this version writes, and the only one it reads."""

_MANIFEST, _WEIGHTS = "proxy.json", "model.safetensors"
_REBUILD = "build it again with `fedfm proxy build`"


def _ascending(indices: tuple[int, ...]) -> tuple[int, ...]:
    if not indices or indices[0] < 0 or any(b <= a for a, b in pairwise(indices)):
        raise ValueError("indices of kept neurons must ascend from 0 or above")
    return indices


def _of_a_proxy(settings: ProxySettings) -> ProxySettings:
    if not settings.is_sent:
        raise ValueError(f"settings of kind `{settings.kind}` make no proxy")
    return settings


class Manifest(Settings):
    """The content of ``proxy.json``: everything that a `Backbone` needs beside the model's files."""

    format: Literal[2] = FORMAT
    """Layout of the folder."""
    settings: Annotated[AnyProxy, AfterValidator(_of_a_proxy)]
    """The settings that it was made by."""
    kept: dict[str, Annotated[tuple[int, ...], AfterValidator(_ascending)]]
    """Indices of the kept neurons by the path of each compressed block."""
    architecture: str
    """Class of the model, which has the head of a task."""
    name: str
    """The backbone's name."""
    revision: str | None
    """The backbone's revision."""
    head: tuple[str, ...]
    """Modules that `head: true` trains."""
    new_head: tuple[str, ...]
    """Parameters of the head that the backbone's checkpoint lacked."""
    other_labels: tuple[str, ...]
    """Classes that the backbone's head was trained for, where they are not the task's."""
    tunable_blocks: tuple[str, ...] | None
    """The only blocks that a tunable may change; null: all."""
    backbone: ModelIdentity
    """Digests of the backbone."""
    weights: str
    """Digest of ``model.safetensors``: names, dtypes, shapes and values."""
    version: Annotated[int, Field(ge=0)] = 0
    """How many alignments it has had."""

    @property
    def kept_neurons(self) -> Kept:
        """``kept`` as tensors."""
        return {path: torch.tensor(indices, dtype=torch.int64) for path, indices in self.kept.items()}


def save_proxy(
    folder: Path,
    proxy: Backbone,
    kept: Mapping[str, Tensor],
    settings: ProxySettings,
    *,
    version: int = 0,
    tensors: Params | None = None,
) -> Manifest:
    """Writes a proxy, with or without a tunable attached; an adapter is left out.

    Args:
        folder: empty.
        proxy: to write.
        kept: its neurons by block path.
        settings: that it was made by.
        version: how many alignments it has had.
        tensors: to write; None: the model's tensors as they are now.

    Raises:
        RecipeError: at ``proxy.bits``: a value that is to be packed is not finite.
    """
    model = proxy.model
    tensors = dict(plain_tensors(model)) if tensors is None else tensors
    tensors = pack(tensors, _packed(model, settings))
    manifest = Manifest(
        settings=settings,
        kept={path: tuple(indices.tolist()) for path, indices in kept.items()},
        architecture=type(model).__name__,
        name=_public_name(proxy.name),
        revision=proxy.revision,
        head=proxy.head,
        new_head=proxy.new_head,
        other_labels=proxy.other_labels,
        tunable_blocks=proxy.tunable_blocks,
        backbone=proxy.identity,
        weights=digest(tensors),
        version=version,
    )
    with quiet():
        model.config.save_pretrained(folder)
        proxy.processor.save_pretrained(folder)
    save(tensors, folder / _WEIGHTS)
    (folder / _MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")
    return manifest


def _public_name(name: str) -> str:
    """A backbone's name; of a folder, the last part: clients get the proxy, but not the server's paths."""
    return Path(name).name if Path(name).is_dir() else name


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a proxy's folder.

    Raises:
        RecipeError: at ``proxy.path`` when it is not a proxy's folder, or one of another version of fedfm.
        DataError: when its manifest is damaged.
        StorageError: when it holds links, or anything else that is not a file or a folder.
    """
    file = folder / _MANIFEST
    if folder.is_dir():
        refuse_links(folder)
    if not file.is_file():
        raise RecipeError(
            f"{folder.absolute()} is not a proxy's folder: it has no {_MANIFEST}; {_REBUILD}", where="proxy.path"
        )
    try:
        content = file.read_bytes()
        made = json.loads(content)
        if isinstance(made, dict) and isinstance(made.get("format"), int) and made["format"] != FORMAT:
            raise RecipeError(
                f"{folder} has format {made['format']}, and this fedfm reads format {FORMAT}; {_REBUILD}",
                where="proxy.path",
            )
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{file} is damaged ({place}: {first['msg']}); {_REBUILD}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read ({error}); {_REBUILD}") from error


def load_proxy(folder: Path, auto_class: Any) -> tuple[Backbone, Manifest]:
    """Loads a proxy from its folder alone, without ever making a tensor of the backbone's size.

    Args:
        folder: as `save_proxy` writes it.
        auto_class: the task's class, e.g. ``transformers.AutoModelForSequenceClassification``.

    Raises:
        RecipeError: at ``proxy.path`` when it is not a proxy's folder, or the proxy has the head of another task.
        DataError: when files are missing, damaged, or do not belong together.
    """
    manifest = read_manifest(folder)
    checkpoint = PretrainedCheckpoint(folder, manifest.name, manifest.revision)
    config = read_config(checkpoint)
    model = _shell(auto_class, config, manifest, folder)
    _fill(model, read_weights(folder, manifest, model), folder)
    model.name_or_path = model.config.name_or_path = manifest.name
    modality: Modality = "image" if model.main_input_name == "pixel_values" else "text"
    try:
        processor = read_processor(checkpoint, config, modality)
    except RecipeError as error:
        raise DataError(f"{folder} is incomplete ({error.problems[0].message}); {_REBUILD}") from error
    if isinstance(processor, PreTrainedTokenizerBase):
        agree_on_tokens(model, processor, manifest.name)
    proxy = Backbone(
        model=model,
        processor=processor,
        family=family_of(config),
        name=manifest.name,
        revision=manifest.revision,
        head=manifest.head,
        new_head=manifest.new_head,
        identity=manifest.backbone,
        other_labels=manifest.other_labels,
        tunable_blocks=manifest.tunable_blocks,
    )
    return proxy, manifest


def check_backbone(manifest: Manifest, backbone: Backbone) -> None:
    """Refuses a proxy that was made of another model than the backbone, by their digests; heads may differ.

    Raises:
        RecipeError: at ``proxy.path``.
    """
    if manifest.backbone.digest != backbone.identity.digest:
        others = " and other ".join(manifest.backbone.differences(backbone.identity))
        raise RecipeError(
            f"the proxy was made of other {others} (of {manifest.name}) than those of {backbone.name}; "
            f"name the model it was made of as `model.path`, or {_REBUILD}",
            where="proxy.path",
        )


def base_parameters(model: PreTrainedModel) -> Params:
    """The base model's parameters without head, pooler and attached tunable; not copied."""
    family = family_of(model.config)
    heads = (*family.heads, *family.language_heads, *([family.pooler] if family.pooler else []))
    return {
        name: tensor
        for name, tensor in plain_tensors(model.base_model)
        if isinstance(tensor, nn.Parameter) and not any(name.startswith(f"{head}.") for head in heads)
    }


def plain_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer once, by its name without an adapter."""
    tuners = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)
    }
    added = {
        f"{name}.{part}."
        for name, module in tuners.items()
        for part in (*module.adapter_layer_names, "modules_to_save")
    }
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not any(name.startswith(prefix) for prefix in added):
            yield name.replace(".base_layer.", ".").replace(".original_module.", "."), tensor


def _shell(auto_class: Any, config: PretrainedConfig, manifest: Manifest, folder: Path) -> PreTrainedModel:
    """The proxy's model on the meta device, without values, its FFNs cut."""
    if type(config) not in auto_class._model_mapping:
        raise _other_task(folder, manifest, auto_class)
    with quiet(), torch.device("meta"):
        model: PreTrainedModel = auto_class.from_config(config, trust_remote_code=False, dtype=torch.float32)
    if type(model).__name__ != manifest.architecture:
        raise _other_task(folder, manifest, auto_class)
    found = {block.path: block for block in blocks(model, family_of(config))}
    for path, indices in manifest.kept_neurons.items():
        if path not in found or indices[-1] >= neurons(found[path]):
            raise DataError(f"{folder} is damaged: its config has no such neurons in {path}; {_REBUILD}")
        keep_neurons(found[path], indices.to("meta"))
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


def _other_task(folder: Path, manifest: Manifest, auto_class: Any) -> RecipeError:
    return RecipeError(
        f"the proxy in {folder} is a {manifest.architecture}, made for another task than {auto_class.__name__}; "
        f"{_REBUILD} from this recipe",
        where="proxy.path",
    )


def _packed(model: PreTrainedModel, settings: ProxySettings) -> dict[str, MatrixPacking]:
    """How the tensors of a proxy with these settings are packed, by name."""
    return named(plain_tensors(model), packings(model, family_of(model.config), settings.wire_bits))


def read_weights(folder: Path, manifest: Manifest, model: PreTrainedModel) -> Params:
    """Reads the tensors of a proxy's folder, verifies their digest and unpacks them.

    Args:
        folder: of the proxy.
        manifest: of the folder.
        model: of the proxy's shape; its values are not read.

    Raises:
        DataError: when they are damaged, or their digest is not the manifest's.
    """
    file = folder / _WEIGHTS
    try:
        if digest(load(file)) != manifest.weights:
            raise DataError(f"{file} does not have the digest in {_MANIFEST}: damaged, or of another proxy; {_REBUILD}")
        stored = load(file)  # mapped again: the first mapping keeps every page that the digest has read
        return unpack(stored, _packed(model, manifest.settings), {n: t.shape for n, t in plain_tensors(model)})
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}); {_REBUILD}") from error
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} cannot be read ({error}); {_REBUILD}") from error


def _fill(model: PreTrainedModel, tensors: Params, folder: Path) -> None:
    """Replaces a model's empty tensors; tied tensors stay tied."""
    empty = [*model.named_parameters(), *model.named_buffers()]
    if {name: tensor.shape for name, tensor in empty} != {name: tensor.shape for name, tensor in tensors.items()}:
        raise DataError(f"{folder} is damaged: its weights do not fit its config; {_REBUILD}")
    parameters = {name for name, _ in model.named_parameters()}
    filled = {
        id(place): nn.Parameter(tensors[name], requires_grad=False) if name in parameters else tensors[name]
        for name, place in empty
    }
    for module in model.modules():
        for name, place in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            setattr(module, name, filled[id(place)])
