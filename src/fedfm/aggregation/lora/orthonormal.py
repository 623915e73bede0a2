"""Factors A with orthonormal rows, A·Aᵀ = I, which span the same space as before."""

from __future__ import annotations

import torch
from torch import Tensor

from fedfm.aggregation.lora.factors import flat
from fedfm.aggregation.lora.pairs import pairs
from fedfm.params import Params


def with_orthonormal_rows(params: Params) -> Params:
    """The same tunable with the rows of each factor A made orthonormal, in their order; other tensors are the same."""
    return {**params, **{a: _orthonormal(params[a]) for a in pairs(params)}}


def _orthonormal(factor: Tensor) -> Tensor:
    """Gram–Schmidt: the first row keeps its direction."""
    q, t = torch.linalg.qr(flat(factor).T)
    rows: Tensor = (q * t.diagonal().sign()).T
    return rows.to(factor.dtype).reshape(factor.shape).contiguous()
