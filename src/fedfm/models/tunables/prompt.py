"""Virtual tokens before the input's embeddings (prompt tuning) or before the keys and values of every block (prefix).

Lester et al., The Power of Scale for Parameter-Efficient Prompt Tuning, arXiv:2104.08691; prompts are initialised as
embeddings of random tokens ("sampled vocabulary").
Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation, arXiv:2101.00190, without reparametrisation.
"""

from __future__ import annotations

import inspect
from typing import Annotated, Any, ClassVar, Literal

from peft import PrefixTuningConfig, PromptTuningConfig, PromptTuningInit
from pydantic import Field

from fedfm.capabilities import BOTH_TOWERS_TUNED, PEFT_PROMPTS, RECOMPUTATION, VIRTUAL_TOKENS
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone, embeddings
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import CLASSIFIERS, WithHead, attach_peft, refuse_undescribed
from fedfm.models.tunables.context import attach_context
from fedfm.models.tunables.hooked import reads_pairs


class VirtualTokens(WithHead):
    """Settings that prompt and prefix tuning share."""

    needs = {
        VIRTUAL_TOKENS: "it trains tokens that precede a text",
        PEFT_PROMPTS: "its tokens are computed or read by peft",
    }

    num_virtual_tokens: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Number of virtual tokens; each uses one position of the text."""

    @property
    def virtual_tokens(self) -> int:
        """The number of virtual tokens, which reduce the number of text tokens that the model accepts."""
        return self.num_virtual_tokens

    def check(self, backbone: Backbone, task_type: str | None) -> None:
        """Refuses models and tasks for which virtual tokens do not work.

        Raises:
            RecipeError: at ``tune.kind`` or ``tune.head``, with the reason.
        """
        refuse_undescribed(backbone)
        if backbone.model.main_input_name != "input_ids":
            raise RecipeError("virtual tokens need a model that reads text", where="tune.kind")
        if task_type is None:
            raise RecipeError("peft has no virtual tokens for this task; use lora", where="tune.kind")
        if backbone.model.config.is_encoder_decoder:
            raise RecipeError(
                f"encoder and decoder ({backbone.family.name}) both read the text, but peft adds virtual tokens to one "
                "of them; use lora",
                where="tune.kind",
            )
        if task_type in CLASSIFIERS and not self.head:
            raise RecipeError("with virtual tokens peft always trains a classifier's head", where="tune.head")


class BeforeInput(VirtualTokens):
    """Settings of trained embeddings before the input's embeddings."""

    def check_before_input(self, backbone: Backbone, task_type: str | None) -> None:
        """Refuses models and tasks for which embeddings before the input do not work.

        Raises:
            RecipeError: at ``tune.kind``: the model is a decoder that classifies; with embeddings as input it cannot
                distinguish the last token from padding; or as `check`.
        """
        self.check(backbone, task_type)
        if backbone.family.causal and task_type == "SEQ_CLS":
            raise RecipeError(
                f"a decoder ({backbone.family.name}) classifies at the last token, which it cannot distinguish from "
                "padding after a prompt; use lora",
                where="tune.kind",
            )

    def common(self, backbone: Backbone, task_type: str | None) -> dict[str, Any]:
        """What PEFT's configs for embeddings before the input have in common."""
        text = backbone.model.config.get_text_config()
        return {
            "num_virtual_tokens": self.num_virtual_tokens,
            "token_dim": embeddings(backbone.model).embedding_dim,
            "num_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "modules_to_save": self.head_modules(backbone) or None,
            "task_type": task_type,
        }


class Prompt(BeforeInput):
    """Trained embeddings before the input's embeddings."""

    needs = {VIRTUAL_TOKENS: VirtualTokens.needs[VIRTUAL_TOKENS]}
    takes = {BOTH_TOWERS_TUNED: "its tokens are in a text, and a client with only images has none"}
    usual_lr = (1e-3, 0.3)
    least_parameters = 1_000_000_000
    least_source = "arXiv:2104.08691, §3.1: it reaches full tuning at 10 billion"

    kind: Literal["prompt"] = "prompt"
    """Trained embeddings before the input's embeddings."""
    head: bool = True
    """Also train the task's head in full; of a language model's head, and of a model of images and texts, only the
    parts that the checkpoint lacks."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """Prompt tuning; of a model of images and texts, `context`.

        Raises:
            RecipeError: at ``tune.kind``: see `check_before_input` and `attach_context`.
        """
        if reads_pairs(backbone):
            return attach_context(self, backbone, seed=seed)
        self.check_before_input(backbone, task_type)
        config = PromptTuningConfig(
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB, **self.common(backbone, task_type)
        )
        return attach_peft(backbone, config, seed=seed)


class Prefix(VirtualTokens):
    """Trained keys and values before those of every block."""

    takes = {RECOMPUTATION: "a prefix lies in the cache of keys and values, which is computed once; use prompt or lora"}
    needs_all_layers: ClassVar[bool] = True

    kind: Literal["prefix"] = "prefix"
    """Trained keys and values before those of every block."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """Prefix tuning.

        Raises:
            RecipeError: at ``tune.kind``: the model does not accept earlier keys and values (DistilBERT, DeBERTa).
        """
        self.check(backbone, task_type)
        if "past_key_values" not in inspect.signature(backbone.model.base_model.forward).parameters:
            raise RecipeError(f"{backbone.family.name} models do not accept a prefix; use lora", where="tune.kind")
        config = PrefixTuningConfig(
            num_virtual_tokens=self.num_virtual_tokens,
            modules_to_save=self.head_modules(backbone) or None,
            task_type=task_type,
        )
        return attach_peft(backbone, config, seed=seed)
