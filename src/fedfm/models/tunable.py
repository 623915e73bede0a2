"""A tunable: the parameters of a model that are trained and travel, by the names that PEFT gives them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedfm.errors import RecipeError
from fedfm.models.processors import Processor
from fedfm.models.quiet import quiet
from fedfm.params import Params

PROMPT = "prompt_embeddings"
"""PEFT's name for virtual tokens; the one tensor of its state dict that is named unlike its parameter."""
ENCODER = "prompt_encoder."
"""Start of the names of parameters from which virtual tokens are computed, which PEFT does not save."""

StackedForms = Mapping[type[Any], Callable[..., Callable[..., Tensor]]]
"""Type of a layer → what makes its forward function for many clients (`fedfm.models.stacked.layers.StackedForm`)."""


class Tunable:
    """A model and the parameters of it that are trained; everything else is frozen.

    Attributes:
        model: a `PeftModel`, or the backbone's model for tunables that are not PEFT methods.
        parameters: the trained parameters by name, sorted; of an adapter, the names of its PEFT state dict, else those
            of the model's own, or of a prompt's encoder (`ENCODER`). Tied parameters appear once.
        stacked_forms: how layers of its method compute with many clients' values, beside those that every stack knows.
    """

    saves_parameters: ClassVar[bool] = True
    """Whether an adapter's file has the trained parameters themselves; otherwise factors that compute the same."""

    def __init__(
        self,
        model: PeftModel | PreTrainedModel,
        parameters: dict[str, nn.Parameter],
        stacked_forms: StackedForms | None = None,
    ) -> None:
        self.model = model
        self.stacked_forms = stacked_forms or {}
        self.parameters = {name: parameters[name] for name in sorted(parameters)}
        self._shapes = {name: parameter.shape for name, parameter in self.parameters.items()}

    @classmethod
    def of_adapter(cls, model: PeftModel, stacked_forms: StackedForms | None = None) -> Tunable:
        """What PEFT would save of a model with an adapter, except what is not trained, such as random projections."""
        state = get_peft_model_state_dict(
            model, state_dict=model.state_dict(keep_vars=True), save_embedding_layers=False
        )
        if PROMPT in state:  # computed by PEFT from these parameters
            encoder = dict(model.prompt_encoder[model.active_adapter].named_parameters())
            embedding = encoder.pop("embedding.weight")
            state[PROMPT] = embedding
            if encoder:
                del state[PROMPT]
                encoder["embedding.weight"] = embedding
                state |= {f"{ENCODER}{name}": parameter for name, parameter in encoder.items()}
        trained = {name: value for name, value in state.items() if value.requires_grad}
        return cls(model, cast(dict[str, nn.Parameter], trained), stacked_forms)  # `keep_vars` leaves parameters

    @classmethod
    def of_model(cls, model: PreTrainedModel, names: Iterable[str]) -> Self:
        """Parameters of the model itself, which start to require gradients."""
        parameters = dict(model.named_parameters())
        chosen = {name: parameters[name] for name in names}
        for parameter in chosen.values():
            parameter.requires_grad_()
        return cls(model, chosen)

    @property
    def base_model(self) -> PreTrainedModel:
        """The transformers model, inside any adapter."""
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        return cast(PreTrainedModel, model)

    @property
    def is_adapter(self) -> bool:
        """Whether `save` writes an adapter, which needs its base model; otherwise it writes a whole model."""
        return isinstance(self.model, PeftModel)

    def read(self) -> Params:
        """A copy of the trained parameters: float32, on the CPU."""
        return {
            name: parameter.detach().to("cpu", torch.float32, copy=True).contiguous()
            for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def write(self, params: Params) -> None:
        """Sets the trained parameters in place.

        Raises:
            ValueError: when names or shapes differ from the tunable's; lists the differences, and nothing is written.
        """
        differences = [f"missing {name}" for name in sorted(self.parameters.keys() - params.keys())]
        differences += [f"unknown {name}" for name in sorted(params.keys() - self.parameters.keys())]
        differences += [
            f"{name} has shape {tuple(params[name].shape)}, not {tuple(shape)}"
            for name, shape in self._shapes.items()
            if name in params and params[name].shape != shape
        ]
        if differences:
            raise ValueError("params do not fit the tunable: " + "; ".join(differences))
        self.fill((name, params[name]) for name in self.parameters)

    @torch.no_grad()
    def fill(self, values: Iterable[tuple[str, Tensor]]) -> None:
        """Sets trained parameters in place, one by one as they come; names and shapes must be the tunable's."""
        for name, value in values:
            parameter = self.parameters[name]
            if parameter.shape != self._shapes[name]:
                parameter.data = parameter.data.new_empty(self._shapes[name])
            parameter.copy_(value)

    def folded(self, params: Params) -> Params:
        """Values that compute the same as ``params``, in the form that a client sends and whose mean is meant."""
        return params

    def peft_state(self) -> dict[str, Tensor]:
        """The state of an adapter's model, from which PEFT selects what it writes."""
        return self.model.state_dict()

    @property
    def has_values(self) -> bool:
        """Whether the trained parameters have values: not between `let_go` and `write`."""
        return all(parameter.shape == self._shapes[name] for name, parameter in self.parameters.items())

    def let_go(self) -> None:
        """Gives back the memory of the trained parameters; they have no values until `write`."""
        for parameter in self.parameters.values():
            parameter.data = parameter.data.new_empty(0)

    def train(self, *, dropout: bool = True) -> None:
        """Training mode.

        Args:
            dropout: whether the backbone's own dropout acts; LoRA's acts in any case.
        """
        self.model.train(dropout)
        if not dropout:
            for module in self.model.modules():
                if isinstance(module, LoraLayer):
                    module.training = True  # the flag alone, not its children's: DoRA asks it before dropping anything
                    module.lora_dropout.train()

    def eval(self) -> None:
        """Evaluation mode: no dropout."""
        self.model.eval()

    def to(self, device: torch.device) -> None:
        """Moves the whole model; `parameters` stay the same objects."""
        nn.Module.to(self.model, device)

    def save(self, folder: Path, processor: Processor | None) -> None:
        """Writes what others load: an adapter for PEFT, or a whole model for transformers; the processor beside it.

        Args:
            folder: to write into.
            processor: of the backbone; None: only the parameters are written.
        """
        with quiet():
            if self.is_adapter:
                self.model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=self.peft_state())
            else:
                self.model.save_pretrained(str(folder))
            if processor is not None:
                processor.save_pretrained(folder)

    def loaded(self, base: PreTrainedModel, folder: Path) -> nn.Module:
        """``base`` with the adapter that `save` has written to a folder; ``base`` is changed in place."""
        return PeftModel.from_pretrained(base, str(folder)).eval()

    def merged(self) -> PreTrainedModel:
        """A copy of the model with the adapter folded into its weights; this tunable is left as it is.

        Raises:
            RecipeError: at ``tune.kind`` when the method adds to the input instead of the weights.
        """
        if not isinstance(self.model, PeftModel):
            return copy.deepcopy(self.model)
        kind = self.model.active_peft_config
        if kind.is_prompt_learning:
            raise RecipeError(
                f"{kind.peft_type.value.lower()} adds virtual tokens to the input, so there is nothing to merge into "
                "the weights; use the adapter as it is",
                where="tune.kind",
            )
        adapted = copy.deepcopy(self.model)
        for name, module in list(adapted.named_modules()):
            if isinstance(module, ModulesToSaveWrapper):  # peft's unloading fails on heads of several layers with IA3
                adapted.set_submodule(name, module.modules_to_save[adapted.active_adapter])
        with quiet():
            merged: PreTrainedModel = adapted.merge_and_unload()
        return merged.requires_grad_(False)
