"""FourierFT: ΔW is the inverse discrete Fourier transform of a matrix with a few trained entries.

Gao et al., Parameter-Efficient Fine-Tuning with Discrete Fourier Transform, arXiv:2405.03003, eq. (2)–(4):

    ΔW = α · Re(F⁻¹(S)),  S[p, q] = θ_j at n places (p, q), drawn once for all matrices of one shape, and 0 elsewhere

θ starts at zero instead of N(0, 1), so that round 1 starts from the backbone; ΔW is linear in θ, so its gradient is the
same.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from peft import FourierFTConfig
from peft.tuners.fourierft import FourierFTLayer
from pydantic import Field

from fedfm.capabilities import LINEAR_TUNABLE
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.stacked.changes import dense_change
from fedfm.models.tunable import StackedForms, Tunable
from fedfm.models.tunables.base import attach_peft
from fedfm.models.tunables.matrices import Matrices, OfMatrices, size_of
from fedfm.models.tunables.targets import transposed
from fedfm.randomness import derive_seed


class Coefficients(OfMatrices):
    """Settings of tunables with trained coefficients of a transform."""

    gives = frozenset({LINEAR_TUNABLE})

    def refuse_more_than_entries(self, count: int, modules: Matrices) -> None:
        """Refuses more coefficients than a matrix has entries.

        Raises:
            RecipeError: at ``tune.n_frequency``.
        """
        for name, module in modules.items():
            rows, columns = size_of(module)
            if count > rows * columns:
                raise RecipeError(
                    f"{count} coefficients exceed the {rows * columns} entries of {name} ({rows} x {columns})",
                    where="tune.n_frequency",
                )


class FourierFT(Coefficients):
    """Trained Fourier coefficients of each matrix's change."""

    forms: ClassVar[StackedForms] = {FourierFTLayer: dense_change}

    kind: Literal["fourierft"] = "fourierft"
    """Trained Fourier coefficients of each matrix's change."""
    n_frequency: Annotated[int, Field(ge=1)] = 1000
    """n: number of trained coefficients of each matrix."""
    scaling: Annotated[float, Field(gt=0)] = 150.0
    """α: factor of the change; larger matrices and models need more (the paper: 100 to 300)."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """FourierFT.

        Raises:
            RecipeError: no module matches ``target_modules``, or ``n_frequency`` exceeds the entries of a matrix.
        """
        modules, common = self.matrices(backbone, task_type)
        self.refuse_more_than_entries(self.n_frequency, modules)
        config = FourierFTConfig(
            n_frequency=self.n_frequency,
            scaling=self.scaling,
            init_weights=True,
            random_loc_seed=derive_seed(seed, "tunable places"),
            fan_in_fan_out=transposed(modules),
            **common,
        )
        return attach_peft(backbone, config, seed=seed, stacked_forms=self.forms)
