"""SHiRA: trains a random sparse part of each matrix, r·(out + in) entries, as many as LoRA of rank r.

Bhardwaj et al., Sparse High Rank Adapters, arXiv:2406.13175 ("SHiRA-Rand"): ΔW[p, q] = θ_j at drawn places (p, q),
and 0 elsewhere. PEFT saves the places beside θ, so that an adapter does not depend on its seed; they do not travel.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from peft import ShiraConfig
from peft.tuners.shira import ShiraLayer
from pydantic import Field

from fedfm.capabilities import LINEAR_TUNABLE
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.stacked.changes import dense_change
from fedfm.models.tunable import StackedForms, Tunable
from fedfm.models.tunables.base import attach_peft
from fedfm.models.tunables.matrices import OfMatrices, size_of
from fedfm.randomness import derive_seed


class Shira(OfMatrices):
    """Trained random entries of each matrix."""

    gives = frozenset({LINEAR_TUNABLE})
    reads_transposed: ClassVar[bool] = False
    forms: ClassVar[StackedForms] = {ShiraLayer: dense_change}

    kind: Literal["shira"] = "shira"
    """Trained random entries of each matrix."""
    r: Annotated[int, Field(ge=1, le=100_000)] = 8
    """Number of trained entries for each row and each column: r·(out + in) of a matrix, as LoRA of rank r has."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """SHiRA.

        Raises:
            RecipeError: no module matches ``target_modules``; at ``tune.r``: a matrix has fewer entries; at
                ``tune.kind``: matrices are stored transposed (GPT-2).
        """
        modules, common = self.matrices(backbone, task_type)
        for name, module in modules.items():
            rows, columns = size_of(module)
            if self.r * (rows + columns) > rows * columns:
                raise RecipeError(
                    f"{self.r}·({rows} + {columns}) entries exceed those of {name} ({rows} x {columns})", where="tune.r"
                )
        config = ShiraConfig(r=self.r, random_seed=derive_seed(seed, "tunable places"), **common)
        return attach_peft(backbone, config, seed=seed, stacked_forms=self.forms)
