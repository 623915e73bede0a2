"""Adapters that PEFT has no form for: a trained module that acts on a model's forward pass by hooks of torch.

The model keeps its class and the names of its parameters, and the module lies in it. What is saved is its tensors
(``adapter.safetensors``) and what they are (``adapter.json``). A few lines of torch add them to the base model again:
those on the model card, which are in ``report/adapters/FORM.py.j2``.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import ClassVar, Self

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, VisionTextDualEncoderProcessor

from fedfm.errors import RecipeError
from fedfm.models.adapter_files import HOOKED, HOOKED_WEIGHTS
from fedfm.models.backbones import Backbone
from fedfm.models.processors import Processor
from fedfm.models.quiet import quiet
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import WithHead, adapter_base, own_parameters


class HookedModule(nn.Module):
    """A trained module that acts on a model's forward pass.

    Attributes:
        form: its name in ``adapter.json``; that of the template of the code that loads it.
        place: path that it gets in the model.
    """

    form: ClassVar[str]
    place: ClassVar[str]

    def install(self, model: PreTrainedModel) -> None:
        """Puts this module into a model, at `place`, and lets it act."""
        parent, _, name = self.place.rpartition(".")
        model.get_submodule(parent).add_module(name, self)
        self.hook(model)

    def hook(self, model: PreTrainedModel) -> None:
        """Registers the hooks by which it acts: bound methods, so that a copy of the model has hooks of its own."""
        raise NotImplementedError


class HookedTunable(Tunable):
    """A model with a `HookedModule`, and perhaps a trained head."""

    _module: HookedModule
    _facts: dict[str, str | None]

    @classmethod
    def of_module(cls, backbone: Backbone, module: HookedModule, head: tuple[str, ...]) -> Self:
        """Adds a module to a backbone.

        Args:
            backbone: without a tunable.
            module: not yet in a model.
            head: parameters of the head that are trained as well.
        """
        own_parameters(backbone.model, head)
        module.install(backbone.model)
        tunable = cls.of_model(backbone.model, [*_names(module), *head])
        tunable._module, tunable._facts = module, {"form": module.form, **adapter_base(backbone)}
        return tunable

    @property
    def is_adapter(self) -> bool:
        """True: the base model is not saved with it."""
        return True

    def save(self, folder: Path, processor: Processor | None) -> None:
        """Writes `HOOKED_WEIGHTS` and `HOOKED`, and the processor beside them."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.read(), folder / HOOKED_WEIGHTS, metadata={"format": "pt"})
        (folder / HOOKED).write_text(json.dumps(self._facts, indent=2) + "\n", encoding="utf-8")
        if processor is not None:
            with quiet():
                processor.save_pretrained(folder)

    def loaded(self, base: PreTrainedModel, folder: Path) -> nn.Module:
        """``base`` with what `save` has written to a folder; ``base`` is changed in place.

        Raises:
            ValueError: the folder has other tensors.
        """
        copy.deepcopy(self._module).install(base)
        tensors = load_file(folder / HOOKED_WEIGHTS)
        if tensors.keys() != self.parameters.keys():
            names = sorted(tensors.keys() ^ self.parameters.keys())
            raise ValueError(f"{HOOKED_WEIGHTS} has other tensors than `{self._module.form}`: {names[0]}")
        base.load_state_dict(tensors, strict=False)
        base.eval()
        return base

    def merged(self) -> PreTrainedModel:
        """Refused: it is no change of weights.

        Raises:
            RecipeError: at ``tune.kind``.
        """
        raise RecipeError(
            f"{self._module.form} acts on what the model computes, so there is nothing to merge into the weights; use "
            "the adapter as it is",
            where="tune.kind",
        )


def reads_pairs(backbone: Backbone) -> bool:
    """Whether a backbone is a model of images and texts, loaded for a task on both."""
    return isinstance(backbone.processor, VisionTextDualEncoderProcessor)


def new_parts(settings: WithHead, backbone: Backbone) -> tuple[str, ...]:
    """Parameters of the head that a checkpoint lacks: projections to the common space, and poolers.

    Raises:
        RecipeError: at ``tune.head``: there are some, and they would not be trained.
    """
    settings.head_modules(backbone)
    return backbone.new_head


def _names(module: HookedModule) -> list[str]:
    return [f"{module.place}.{name}" for name, _ in module.named_parameters()]
