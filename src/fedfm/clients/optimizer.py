"""The optimiser of one client's local steps: over named parameters, so that its moments can be kept between rounds.

Muon (Jordan et al., 2024; `torch.optim.Muon`) makes the momentum of a matrix nearly orthogonal before each step. It is
for the matrices inside a model; MuLoCo, arXiv:2505.23725, takes it for local steps. Its rate is scaled by
0.2·√max(rows, columns), so that its steps are as large as AdamW's (arXiv:2502.16982, eq. 4) and both share one
`local.learning_rate`. Everything else follows AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Muon, Optimizer
from transformers.pytorch_utils import Conv1D

from fedfm.clients.rules import Groups
from fedfm.clients.settings import LocalSettings
from fedfm.clients.steps import make_optimizer
from fedfm.models.tunable import Tunable
from fedfm.params import Params


class LocalOptimizer:
    """The recipe's local optimiser over some parameters of a tunable."""

    def __init__(
        self,
        tunable: Tunable,
        parameters: Mapping[str, nn.Parameter],
        local: LocalSettings,
        moments: Groups | None = None,
    ) -> None:
        """An optimiser before its first step, or as `moments` left it.

        Args:
            tunable: whose model has the parameters.
            parameters: those that move, by name.
            local: the recipe's.
            moments: what `moments` returned after an earlier round; None or empty: none.
        """
        self._parameters, self._kept = parameters, moments or {}
        hidden = hidden_matrices(tunable) if local.optimizer == "muon" else set()
        matrices = [parameter for parameter in parameters.values() if id(parameter) in hidden]
        others = [parameter for parameter in parameters.values() if id(parameter) not in hidden]
        self._parts: list[Optimizer] = [make_optimizer(others, local, local.learning_rate)] if others else []
        if matrices:
            muon = Muon(
                matrices, lr=local.learning_rate, weight_decay=local.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
            self._parts.append(muon)
        for name, parameter in parameters.items():
            state = {group: params[name].to(parameter.device) for group, params in self._kept.items() if name in params}
            if state:
                self._part(parameter).state[parameter] = {key: _moved(key, value) for key, value in state.items()}

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for part in self._parts:
            part.zero_grad()

    def step(self, lr: float) -> None:
        """One step along the present gradients, at a learning rate."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()

    def moments(self) -> dict[str, Params]:
        """What it keeps, by group: copies on the CPU. Of parameters that did not move, as it was."""
        found = {group: dict(params) for group, params in self._kept.items()}
        for name, parameter in self._parameters.items():
            for key, value in self._part(parameter).state.get(parameter, {}).items():
                found.setdefault(key, {})[name] = value.detach().to("cpu", copy=True)
        return found

    def _part(self, parameter: nn.Parameter) -> Optimizer:
        """The optimiser that has a parameter."""
        return next(
            part for part in self._parts for group in part.param_groups for own in group["params"] if own is parameter
        )


def _moved(key: str, value: Tensor) -> Tensor:
    """A copy of a moment that the optimiser may change; AdamW counts its steps on the CPU."""
    return value.to("cpu", copy=True) if key == "step" else value.clone()


@torch.no_grad()
def hidden_matrices(tunable: Tunable) -> set[int]:
    """Ids of the weights of linear layers inside a tunable's base model: neither embeddings nor heads."""
    model = tunable.base_model
    output = model.get_output_embeddings()
    outside = {id(output.weight)} if isinstance(output, nn.Linear) else set[int]()
    linear = (module for module in model.base_model.modules() if isinstance(module, nn.Linear | Conv1D))
    return {id(module.weight) for module in linear if module.weight.ndim == 2} - outside
