"""LoRA: W x + (α/r)·B A x with A [r, in] random and B [out, r] zero; and DoRA, which also trains magnitudes.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685, eq. (3).
Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, arXiv:2312.03732: α/√r instead of α/r.
Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, arXiv:2402.09353, eq. (5).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from peft import LoraConfig
from pydantic import Field

from fedfm.capabilities import LOW_RANK_FACTORS, LOW_RANK_PRODUCT
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import WithHead, attach_peft
from fedfm.models.tunables.matrices import Matrices
from fedfm.models.tunables.targets import matching, resolve, transposed, within


class FactorSettings(WithHead):
    """Settings of all tunables that are saved as LoRA."""

    in_blocks: ClassVar[bool] = True

    r: Annotated[int, Field(ge=1, le=100_000)] = 8
    """Rank of the update of each matrix."""
    lora_alpha: Annotated[int, Field(ge=1, le=1_000_000)] = 16
    """α: the update is scaled by α/r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input during training."""
    target_modules: str | list[str] = "attention"
    """Matrices to adapt: `attention` (query, key, value and output of every block), `ffn`, `all`, a regular expression
    for whole module names, or a list of name endings."""

    @property
    def dropout(self) -> float:
        """`lora_dropout`."""
        return self.lora_dropout

    def adapted(
        self, backbone: Backbone, task_type: str | None, *, heads: int = 1, **settings: Any
    ) -> tuple[Matrices, LoraConfig]:
        """The matrices to adapt, and PEFT's settings of rank ``heads``·r, scaled by α/r.

        Args:
            backbone: without a tunable.
            task_type: as for `attach`.
            heads: updates of rank r in each matrix.
            settings: others of PEFT's.

        Raises:
            RecipeError: no module matches ``target_modules``, or ``r`` exceeds the dimensions of a matrix.
        """
        targets = resolve(self.target_modules, backbone)
        modules = matching(targets, backbone)
        for name, module in modules.items():
            if self.r > min(module.weight.shape):
                size = " x ".join(map(str, module.weight.shape))
                raise RecipeError(f"rank {self.r} exceeds the matrix {name} ({size})", where="tune.r")
        return modules, LoraConfig(
            r=heads * self.r,
            lora_alpha=heads * self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=within(targets, modules, backbone),
            modules_to_save=self.head_modules(backbone) or None,
            fan_in_fan_out=transposed(modules),
            task_type=self.peft_task_type(task_type),
            **settings,
        )


class LowRank(FactorSettings):
    """Settings that LoRA and DoRA share."""

    gives = frozenset({LOW_RANK_FACTORS})
    usual_lr = (5e-5, 2e-3)  # OpenFedLLM and FedIT; FedEx-LoRA on E2E

    use_rslora: bool = False
    """Scale the update by α/√r instead, so that its size does not shrink with the rank (rsLoRA)."""

    @property
    def rank(self) -> int:
        """`r`."""
        return self.r

    def attach_low_rank(self, backbone: Backbone, *, task_type: str | None, seed: int, use_dora: bool) -> Tunable:
        """Attaches LoRA, or DoRA.

        Raises:
            RecipeError: as `adapted`.
        """
        _, config = self.adapted(backbone, task_type, use_rslora=self.use_rslora, use_dora=use_dora)
        return attach_peft(backbone, config, seed=seed)


class Lora(LowRank):
    """Low-rank updates of weight matrices."""

    gives = frozenset({LOW_RANK_FACTORS, LOW_RANK_PRODUCT})

    kind: Literal["lora"] = "lora"
    """Low-rank updates of weight matrices."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """LoRA."""
        return self.attach_low_rank(backbone, task_type=task_type, seed=seed, use_dora=False)


class Dora(LowRank):
    """Low-rank updates of directions, with trained magnitudes."""

    kind: Literal["dora"] = "dora"
    """Low-rank updates of the directions of weight vectors, with trained magnitudes."""

    @property
    def needs_all_neurons(self) -> bool:
        """Whether it trains the lengths of FFN matrices' columns, of which a smaller FFN has fewer."""
        return self.target_modules in ("ffn", "all")

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """DoRA."""
        return self.attach_low_rank(backbone, task_type=task_type, seed=seed, use_dora=True)
