"""Example-level differential privacy: each client runs DP-SGD, and the server need not be trusted.

Abadi et al., Deep Learning with Differential Privacy, arXiv:1607.00133, Algorithm 1, at each client; `private_steps`
has the formula of a step. All that follows the noise is post-processing: an algorithm's correction of the gradient, the
optimiser, the update path, secure sums, rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fedfm import capabilities
from fedfm.privacy.base import LocalSteps, Privacy
from fedfm.privacy.example_promise import ExamplePromise

Positive = Annotated[float, Field(gt=0)]


class LocalPrivacy(Privacy):
    """Each example is protected by its client: local steps clip its gradient and add noise (DP-SGD)."""

    kind: Literal["local"] = "local"
    """Each example is protected by its client: local steps clip its gradient and add noise (DP-SGD)."""
    epsilon: Positive | None = None
    """ε that no client may exceed in all of its rounds; null: any. Without `noise_multiplier`, each client chooses its
    noise so that all rounds cost this much; with it, a client takes no more part once another round would cost more."""
    noise_multiplier: Positive | None = None
    """z: standard deviation of the noise in the sum of a step's gradients over the clipping bound; null: as `epsilon`
    needs, at each client."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """δ; it must be below 1 / number of examples of every client."""
    clip: Positive = 1.0
    """C: the largest L2 norm of the gradient of one example; a longer one is scaled down."""
    accountant: Literal["pld", "rdp"] = "pld"
    """How ε is computed: `pld` by privacy loss distributions, `rdp` by Rényi divergences, which gives a larger ε."""

    needs: ClassVar[Mapping[str, str]] = {
        capabilities.GRADIENTS: "it clips the gradients of single examples",
        capabilities.SINGLE_EXAMPLES: "it bounds what one example changes",
        capabilities.STEADY_EXAMPLES: "its accountant samples from all examples of a client in every round",
        capabilities.BARRIER: "what a client may still spend is looked up before each round",
        capabilities.PARTIAL_PARTICIPATION: "a client that has spent its budget takes no more part",
    }
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.CLIENT_FIGURES: "there is no noise in them",
    }

    @model_validator(mode="after")
    def _has_noise(self) -> Self:
        if self.epsilon is None and self.noise_multiplier is None:
            raise ValueError("needs a target ε (`privacy.epsilon`) or `privacy.noise_multiplier`")
        return self

    def examples(self, local: LocalSteps, rounds: int) -> ExamplePromise:
        """As `fedfm.privacy.Privacy.examples`."""
        return ExamplePromise(
            delta=self.delta,
            clip=self.clip,
            noise_multiplier=self.noise_multiplier,
            budget=self.epsilon,
            accountant=self.accountant,
            rounds=rounds,
            batch_size=local.batch_size,
            steps=local.steps,
        )
