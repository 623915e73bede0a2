"""What every runner is given: one job, its model and adapter, and the batches of each client and round.

A job's folder holds all that is fixed: `model/` and `adapter/` as transformers and peft load them, without dropout, and
`examples.safetensors` with the tokens and the batches, so that all runners take the same steps on the same data. Needs
torch, transformers, peft and safetensors, which the environments of all peers have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Params = dict[str, Tensor]
"""The adapter, by the names of its PEFT state dict."""


@dataclass(frozen=True)
class Job:
    """One job for one runner.

    Attributes:
        folder: of the fixed data.
        auto_class: the class of transformers that loads the model.
        batch_size: examples a step.
        learning_rate: constant.
        optimizer: ``adamw`` or ``sgd``, without weight decay; gradients are clipped to norm 1.
        threads: cores to use, by threads or by processes.
        precision: ``float32``, or ``bfloat16``: the runner's own way of mixed precision.
        settings: what only one runner understands.
        output: where the final adapter goes.
        started: when the process was started, in seconds since the epoch.
    """

    folder: Path
    auto_class: str
    batch_size: int
    learning_rate: float
    optimizer: str
    threads: int
    precision: str
    settings: tuple[str, ...]
    output: Path
    started: float

    @property
    def adapter(self) -> Path:
        """The folder of the adapter that all start from."""
        return self.folder / "adapter"

    @property
    def mixed(self) -> torch.autocast:
        """Mixed precision where the job asks for it; a context."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16")

    def dump(self) -> str:
        """The job as JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def load(cls, text: str) -> Job:
        """The job that was dumped."""
        fields = json.loads(text)
        paths = {name: Path(fields[name]) for name in ("folder", "output")}
        return cls(**{**fields, **paths, "settings": tuple(fields["settings"])})


@dataclass(frozen=True)
class Data:
    """Tokens, and who takes which steps on them.

    Attributes:
        input_ids: int64 [N, T], padded on the right.
        lengths: int64 [N], real tokens.
        labels: int64 [N] classes; None: the tokens are to be predicted.
        plan: int64 [rounds, clients, steps, batch], examples of each step.
        sizes: int64 [clients], examples that a client holds, its weight.
    """

    input_ids: Tensor
    lengths: Tensor
    labels: Tensor | None
    plan: Tensor
    sizes: Tensor

    @classmethod
    def load(cls, folder: Path) -> Data:
        """What `save` wrote."""
        tensors = load_file(folder / "examples.safetensors")
        return cls(**{"labels": None, **tensors})

    def save(self, folder: Path) -> None:
        """Writes ``examples.safetensors``."""
        tensors = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        save_file(tensors, folder / "examples.safetensors")

    @property
    def rounds(self) -> int:
        """How many rounds are planned."""
        return len(self.plan)

    @property
    def clients(self) -> int:
        """How many clients there are, all of them in every round."""
        return len(self.sizes)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Examples as the model takes them, padded to the longest of them."""
        lengths = self.lengths[indices]
        longest = int(lengths.max())
        input_ids = self.input_ids[indices, :longest]
        mask = (torch.arange(longest) < lengths[:, None]).long()
        labels = input_ids.masked_fill(mask == 0, -100) if self.labels is None else self.labels[indices]
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}

    def batches(self, number: int, client: int) -> list[dict[str, Tensor]]:
        """A client's steps in a round, both counted from 0."""
        return [self.batch(indices) for indices in self.plan[number, client]]


def load_model(job: Job) -> PeftModel:
    """The model with the adapter that all start from; in bfloat16 with plain attention: torch's own is slow there."""
    auto_class: Any = getattr(transformers, job.auto_class)
    attention = "eager" if job.precision == "bfloat16" else "sdpa"
    backbone = auto_class.from_pretrained(job.folder / "model", dtype=torch.float32, attn_implementation=attention)
    return PeftModel.from_pretrained(backbone, str(job.adapter), is_trainable=True)


def trained(model: PeftModel) -> dict[str, nn.Parameter]:
    """The adapter's parameters themselves, sorted by their names in its PEFT state dict."""
    state = model.state_dict(keep_vars=True)
    return dict(sorted(get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False).items()))


@torch.no_grad()
def read(parameters: dict[str, nn.Parameter]) -> Params:
    """A copy of an adapter."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@torch.no_grad()
def write(parameters: dict[str, nn.Parameter], params: Params) -> None:
    """Sets an adapter."""
    for name, parameter in parameters.items():
        parameter.copy_(params[name])


def make_optimizer(job: Job, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """A fresh optimiser."""
    if job.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr)
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)


def train(
    job: Job, model: PeftModel, parameters: dict[str, nn.Parameter], batches: Iterable[dict[str, Tensor]]
) -> None:
    """Local training as one writes it by hand."""
    optimizer = make_optimizer(job, parameters.values(), job.learning_rate)
    model.train()
    for batch in batches:
        with job.mixed:
            loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()


@cache
def resident(text: str) -> tuple[PeftModel, dict[str, nn.Parameter]]:
    """The model of a job as `Job.dump` wrote it, loaded once a process, and its adapter's parameters."""
    model = load_model(Job.load(text))
    return model, trained(model)


@cache
def data_of(folder: Path) -> Data:
    """The data of a job, read once a process."""
    return Data.load(folder)


class Mean:
    """The mean of the clients' adapters, weighted by their examples."""

    def __init__(self) -> None:
        self._sum: Params = {}
        self._weight = 0.0

    def add(self, params: Params, weight: float) -> None:
        """One client's."""
        self._weight += weight
        for name, tensor in params.items():
            term = tensor.detach().double() * weight
            self._sum[name] = self._sum[name].add_(term) if name in self._sum else term

    def result(self) -> Params:
        """The mean, in float32."""
        return {name: (tensor / self._weight).float() for name, tensor in self._sum.items()}
