"""P-tuning: virtual tokens before the input, computed by a small trained network.

Liu et al., GPT Understands, Too, arXiv:2103.10385, with an MLP of two hidden layers as the prompt encoder:

    prompt = MLP(E),  E [n, d] and the MLP are trained

E and the MLP travel; what is saved is the prompt that they compute, which PEFT loads without them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from peft import PromptEncoderConfig
from pydantic import Field

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone, embeddings
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import attach_peft
from fedfm.models.tunables.prompt import BeforeInput


class PTuning(BeforeInput):
    """Virtual tokens that a trained network computes."""

    kind: Literal["p-tuning"] = "p-tuning"
    """Virtual tokens before the input's embeddings, computed by a trained network."""
    encoder_hidden_size: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Width of the network's hidden layers; null: the width of the embeddings."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """P-tuning.

        Raises:
            RecipeError: at ``tune.kind``: see `check_before_input`; or PEFT, which compares the ends of names, would
                take the network (``mlp_head``) for the model's head (ModernBERT's ``head``).
        """
        self.check_before_input(backbone, task_type)
        if taken := [name for name in self.head_modules(backbone) if "mlp_head".endswith(name)]:
            raise RecipeError(
                f"peft would take the network of the prompt for the `{taken[0]}` of {backbone.name}; use prompt",
                where="tune.kind",
            )
        width = self.encoder_hidden_size or embeddings(backbone.model).embedding_dim
        config = PromptEncoderConfig(encoder_hidden_size=width, **self.common(backbone, task_type))
        return attach_peft(backbone, config, seed=seed)
