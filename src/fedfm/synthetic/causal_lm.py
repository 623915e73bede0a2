"""A causal language model as generator: it continues a prompt with the name of a class, as in GPT-FL.

Zhang et al., GPT-FL: Generative Pre-trained Model-Assisted Federated Learning, arXiv:2306.02210, §3.1: labelled data
from the names of the classes and prompts. A variation keeps the first half of a text's words and lets the model write
the rest; Aug-PE (arXiv:2403.01749) asks a model to fill in or rephrase, which a small model cannot.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import torch
from pydantic import Field, field_validator, model_validator
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.quiet import quiet
from fedfm.models.settings import ModelSettings
from fedfm.randomness import torch_seed
from fedfm.synthetic.base import TextGenerator

PLACE = "{label}"


class PromptedModel(TextGenerator):
    """A causal language model that continues prompts (GPT-FL)."""

    kind: Literal["causal-lm"] = "causal-lm"
    """A causal language model that continues prompts with the names of the classes (GPT-FL, arXiv:2306.02210)."""
    path: str = "builtin:tiny-llama"
    """Local folder, `builtin:NAME`, or a hub id whose files are already on this machine. Code in it is never run."""
    prompts: Annotated[list[str], Field(min_length=1)] = ["A text about {label}:"]
    """Prompts, which take turns; `{label}` is the name of the class. They are not part of the texts."""
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 32
    """Tokens of a text at most."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Tokens are drawn; the higher it is, the more evenly."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Draw from the most probable tokens that together have this probability."""

    @field_validator("prompts")
    @classmethod
    def _names_the_class(cls, prompts: list[str]) -> list[str]:
        for prompt in prompts:
            if PLACE not in prompt:
                raise ValueError(f"prompt {prompt!r} must have {PLACE}, where the name of the class goes")
        return prompts

    @model_validator(mode="after")
    def _brings_no_code(self) -> Self:
        file = Path(self.path) / "config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except (OSError, ValueError):
            return self  # loading says what is wrong with it
        if isinstance(config, dict) and config.get("auto_map"):
            raise ValueError(
                f"path: {file} names code of its own (`auto_map`), and fedfm never runs code that comes with a model "
                "(trust_remote_code): use a model whose class transformers has"
            )
        return self

    def writer(self, seed: int) -> ModelWriter:
        """As `TextGenerator.writer`; loads the model."""
        try:
            backbone = load_backbone(
                ModelSettings(path=self.path), AutoModelForCausalLM, seed=seed, labels=None, allow_network=False
            )
        except RecipeError as error:
            raise RecipeError(str(error), where="protocol.generator.path") from error
        return ModelWriter(backbone, self)


class ModelWriter:
    """Lets a model write."""

    def __init__(self, backbone: Backbone, settings: PromptedModel) -> None:
        """A writer.

        Args:
            backbone: the model.
            settings: how it writes.
        """
        self._model = cast(Any, backbone.model.eval())
        self._tokenizer, self._settings = cast(PreTrainedTokenizerBase, backbone.processor), settings

    def first(self, label: str, count: int, seed: int) -> list[str]:
        """As `TextWriter.first`."""
        prompts = self._settings.prompts
        asked = [prompts[number % len(prompts)].replace(PLACE, label) for number in range(count)]
        return self._continued(asked, [""] * count, label, seed)

    def varied(self, texts: Sequence[str], label: str, seed: int) -> list[str]:
        """As `TextWriter.varied`."""
        prompts = self._settings.prompts
        kept = [" ".join(text.split()[: max(1, len(text.split()) // 2)]) for text in texts]
        asked = [f"{prompts[n % len(prompts)].replace(PLACE, label)} {start}" for n, start in enumerate(kept)]
        return self._continued(asked, kept, label, seed)

    def _continued(self, prompts: Sequence[str], starts: Sequence[str], label: str, seed: int) -> list[str]:
        """The continuation of each prompt behind its start; the name of the class where the model writes nothing."""
        written = []
        for number, (prompt, start) in enumerate(zip(prompts, starts, strict=True)):
            ids = torch.tensor([self._tokenizer(prompt, add_special_tokens=True)["input_ids"]])
            with torch.inference_mode(), quiet(), torch_seed(seed, "synthetic text", client=str(number)):
                found = self._model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=self._settings.max_new_tokens,
                    do_sample=True,
                    temperature=self._settings.temperature,
                    top_p=self._settings.top_p,
                    top_k=0,
                    pad_token_id=self._tokenizer.pad_token_id,
                )
            new = self._tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)
            text = " ".join(f"{start} {new}".replace("\0", " ").split())
            written.append(text or label)
        return written
