"""The base classes of tunable settings, and functions that attach a tunable to a backbone."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from peft import PeftConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import Block, blocks
from fedfm.models.quiet import quiet
from fedfm.models.tunable import StackedForms, Tunable
from fedfm.randomness import torch_seed
from fedfm.settings import Settings

CLASSIFIERS = ("SEQ_CLS", "TOKEN_CLS")
"""PEFT's types of tasks whose models have a classifier as their head."""


class TuneSettings(Settings):
    """Settings of the trained parameters; subclasses attach them to a backbone.

    Attributes:
        stackable: whether several clients can train in one pass; false if they would not share any product.
        in_blocks: whether it changes what layers inside the blocks compute.
        needs_all_layers: whether it has values for every layer, which a model with fewer layers cannot provide.
        usual_lr: smallest and largest learning rate of AdamW in published runs; None where no figures are at hand.
        least_parameters: parameters of a backbone below which it is known to be clearly worse than other tunables.
        least_source: where that is shown.
    """

    stackable: ClassVar[bool] = True
    in_blocks: ClassVar[bool] = False
    needs_all_layers: ClassVar[bool] = False
    usual_lr: ClassVar[tuple[float, float] | None] = None
    least_parameters: ClassVar[int] = 0
    least_source: ClassVar[str] = ""

    @property
    def needs_all_neurons(self) -> bool:
        """Whether it has values for every neuron of an FFN that a model with fewer neurons could not map back."""
        return False

    kind: str
    """Which parameters are trained and travel."""
    share: str | list[str] | None = None
    """What travels: a pattern of tensor names or a list of them, such as `*lora_A*`; `head` stands for the task's head,
    and `not PATTERN` excludes. Everything else is personal: each client keeps its own. Null: everything travels."""

    @property
    def dropout(self) -> float:
        """Probability with which the tunable's own layers drop a value of their input in training."""
        return 0.0

    @property
    def rank(self) -> int | None:
        """The rank of its updates of matrices; None where they have no low rank."""
        return None

    @property
    def virtual_tokens(self) -> int:
        """The number of virtual tokens, which reduce the number of text tokens that the model accepts."""
        return 0

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """Makes parameters of a backbone trainable, in place; a backbone can have only one tunable.

        Args:
            backbone: without a tunable.
            task_type: name of PEFT's ``TaskType`` (``SEQ_CLS``, ``CAUSAL_LM``); None if PEFT has no type for the task.
            seed: the recipe's seed; new parameters are drawn from it.

        Raises:
            RecipeError: the settings do not fit the backbone or the task.
        """
        raise NotImplementedError


class WithHead(TuneSettings):
    """A tunable that can also train the task's head."""

    head: bool = True
    """Also train the task's head in full; of a language model's head, only the parts that the checkpoint lacks."""

    def head_modules(self, backbone: Backbone) -> list[str]:
        """Names of the head's modules to train.

        Raises:
            RecipeError: at ``tune.head``: the head is new or has other labels, and would not be trained.
        """
        if self.head:
            return list(backbone.head)
        if backbone.new_head:
            raise RecipeError(
                f"{backbone.name} has no trained head for this task ({', '.join(backbone.new_head)}), and with "
                "`head: false` it would stay random; set `tune.head: true`",
                where="tune.head",
            )
        if backbone.other_labels:
            raise RecipeError(
                f"the head of {backbone.name} was trained for other labels than the data's "
                f"({', '.join(backbone.other_labels[:5])}); set `tune.head: true`",
                where="tune.head",
            )
        return []

    def peft_task_type(self, task_type: str | None) -> str | None:
        """The task type to pass to PEFT, which always trains the head with one of `CLASSIFIERS`."""
        return None if task_type in CLASSIFIERS and not self.head else task_type


def refuse_undescribed(backbone: Backbone) -> None:
    """Refuses a tunable that needs the parts of blocks, if the model has no description.

    Raises:
        RecipeError: at ``tune.kind``: the model's family is not described.
    """
    family = backbone.family
    if not family.is_described:
        raise RecipeError(
            f"fedfm has no description of `{family.name}` models; use lora, dora, head or full", where="tune.kind"
        )


def tunable_blocks(backbone: Backbone) -> list[Block]:
    """The blocks that a tunable may change."""
    chosen = backbone.tunable_blocks
    return [block for block in blocks(backbone.model, backbone.family) if chosen is None or block.path in chosen]


def own_parameters(model: PreTrainedModel, names: Collection[str]) -> None:
    """Gives a model copies of some of its parameters, since another model may share the originals."""
    chosen = set(names)
    alike: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        alike.setdefault(id(parameter), []).append(name)
    for tied in alike.values():
        if not chosen.isdisjoint(tied):
            own = nn.Parameter(model.get_parameter(tied[0]).detach().clone())
            for name in tied:
                module, _, attribute = name.rpartition(".")
                model.get_submodule(module).register_parameter(attribute, own)


def attach_parameters(model: PreTrainedModel, names: Collection[str]) -> Tunable:
    """Makes parameters of the model itself trainable, as copies."""
    own_parameters(model, names)
    return Tunable.of_model(model, names)


def adapter_base(backbone: Backbone) -> dict[str, str | None]:
    """What an adapter's config says of its base model."""
    folder = Path(backbone.name).expanduser()
    name = str(folder.absolute()) if folder.is_dir() else backbone.name
    return {"base_model_name_or_path": name, "revision": backbone.revision}


def attach_peft(
    backbone: Backbone, config: PeftConfig, *, seed: int, stacked_forms: StackedForms | None = None
) -> Tunable:
    """Attaches a PEFT method; its new parameters are drawn with a keyed seed.

    Args:
        backbone: without a tunable.
        config: of the method.
        seed: the recipe's seed.
        stacked_forms: how the method's layers compute with many clients' values, by their type.
    """
    with torch_seed(seed, "tunable"), quiet():
        model = get_peft_model(backbone.model, config)
    attached = model.active_peft_config
    for field, value in adapter_base(backbone).items():
        setattr(attached, field, value)
    for field in ("target_modules", "feedforward_modules"):
        if isinstance(chosen := getattr(attached, field, None), set):
            setattr(attached, field, sorted(chosen))  # so that adapter_config.json does not depend on hashes
    model.eval()
    return Tunable.of_adapter(model, stacked_forms)
