"""WaveFT: ΔW is the inverse wavelet transform of a matrix with a few trained coefficients.

Bilican et al., Exploring Sparsity for Parameter Efficient Fine Tuning Using Wavelets, arXiv:2505.12532:

    ΔW = λ · IDWT(S),  S[p, q] = θ_j at n places (p, q), drawn once for all matrices of one shape, and 0 elsewhere
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from peft import WaveFTConfig
from peft.tuners.waveft import WaveFTLayer
from pydantic import Field

from fedfm.models.backbones import Backbone
from fedfm.models.stacked.changes import dense_change
from fedfm.models.tunable import StackedForms, Tunable
from fedfm.models.tunables.base import attach_peft
from fedfm.models.tunables.fourierft import Coefficients
from fedfm.models.tunables.targets import transposed
from fedfm.randomness import derive_seed


class WaveFT(Coefficients):
    """Trained wavelet coefficients of each matrix's change."""

    forms: ClassVar[StackedForms] = {WaveFTLayer: dense_change}

    kind: Literal["waveft"] = "waveft"
    """Trained wavelet coefficients of each matrix's change."""
    n_frequency: Annotated[int, Field(ge=1)] = 1000
    """n: number of trained coefficients of each matrix."""
    scaling: Annotated[float, Field(gt=0)] = 25.0
    """λ: factor of the change."""
    wavelet_family: Literal["db1", "db2", "sym2", "sym3", "coif1"] = "db1"
    """The wavelet; `db1` (Haar) is the fastest."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """WaveFT.

        Raises:
            RecipeError: no module matches ``target_modules``, or ``n_frequency`` exceeds the entries of a matrix.
        """
        modules, common = self.matrices(backbone, task_type)
        self.refuse_more_than_entries(self.n_frequency, modules)
        config = WaveFTConfig(
            n_frequency=self.n_frequency,
            scaling=self.scaling,
            wavelet_family=self.wavelet_family,
            random_loc_seed=derive_seed(seed, "tunable places"),
            fan_in_fan_out=transposed(modules),
            **common,
        )
        return attach_peft(backbone, config, seed=seed, stacked_forms=self.forms)
