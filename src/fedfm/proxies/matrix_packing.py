"""A proxy's matrices in 4 or 8 bits: what `proxy.bits` sends, and the values that server and clients compute with.

Each row of a matrix is cut into blocks of 64 values; the rows of an FFN's matrices are its neurons' vectors, so that a
neuron can be sent without the others. With L = 2^(bits−1) − 1, a block x becomes integers q and a scale s:

    s = max|x| / L,    q = round(x / s) in −L … L,    x ≈ q·s

Scales are bfloat16, which has float32's range: 2 bytes for 64 values, 4.25 or 8.25 bits a value in all. The rounding
is to the nearest, unlike the random one of updates (`fedfm.updates.stages.quantize`): these values are sent once, and
quantising them again gives the same integers, scales and values, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from fedfm.errors import RecipeError
from fedfm.models.families import Family, blocks
from fedfm.params import Params, is_finite
from fedfm.proxies.ffn import neuron_tensors
from fedfm.proxies.settings import Bits

BLOCK = 64
"""Values that share a scale."""

CODES, SCALES = "codes", "scales"
"""Endings of the names of the two tensors that stand for a packed one."""


@dataclass(frozen=True)
class MatrixPacking:
    """How one matrix is packed.

    Attributes:
        bits: 4 or 8.
        axis: the axis that counts rows.
    """

    bits: int
    axis: int = 0

    @property
    def most(self) -> int:
        """L, the largest integer, both ways."""
        return int(2 ** (self.bits - 1)) - 1

    def sizes(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Integers and scales of a tensor of this shape, on the meta device."""
        rows, columns = self._rows(shape)
        values = rows * columns
        dtype, count = (torch.int8, values) if self.bits == 8 else (torch.uint8, -(-values // 2))
        codes = torch.empty(count, dtype=dtype, device="meta")
        return codes, torch.empty(rows, -(-columns // BLOCK), dtype=torch.bfloat16, device="meta")

    def pack(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Integers, int8 ``[values]`` or, two in one, uint8 ``[⌈values / 2⌉]``; bfloat16 scales ``[rows, blocks]``."""
        rows, columns = self._rows(tensor.shape)
        values = tensor.detach().cpu().float().movedim(self.axis, 0).reshape(rows, columns)
        cut = pad(values, (0, -columns % BLOCK)).view(rows, -(-columns // BLOCK), BLOCK)
        scales = (cut.abs().amax(2) / self.most).bfloat16()
        scales = scales.where(scales >= torch.finfo(torch.bfloat16).tiny, 0)  # smaller ones have too few digits
        quotients = (cut / scales.float()[..., None]).nan_to_num(0, 0, 0)
        codes = quotients.round().to(torch.int8).flatten(1)[:, :columns].reshape(-1)
        return codes if self.bits == 8 else _join(codes), scales

    def unpack(self, codes: Tensor, scales: Tensor, shape: Sequence[int]) -> Tensor:
        """The values, float32 of ``shape``.

        Raises:
            ValueError: integers or scales are not those of such a tensor, or not what `pack` writes.
        """
        for name, part, expected in zip((CODES, SCALES), (codes, scales), self.sizes(shape), strict=True):
            if (part.shape, part.dtype) != (expected.shape, expected.dtype):
                raise ValueError(
                    f"its {name} are {part.dtype} of shape {[*part.shape]}, "
                    f"not {expected.dtype} of shape {[*expected.shape]}"
                )
        if not is_finite(scales) or (scales < 0).any():
            raise ValueError("a scale is negative or not finite")
        rows, columns = self._rows(shape)
        integers = codes if self.bits == 8 else _split(codes)[: rows * columns]
        if (integers < -self.most).any():
            raise ValueError(f"an integer is below −{self.most}")
        factors = scales.float().repeat_interleave(BLOCK, dim=1)[:, :columns]
        values = integers.view(rows, columns).float() * factors
        rest = [size for axis, size in enumerate(shape) if axis != self.axis]
        return values.view(rows, *rest).movedim(0, self.axis).contiguous()

    def round(self, tensor: Tensor) -> Tensor:
        """The values that a client gets, on the CPU."""
        return self.unpack(*self.pack(tensor), tensor.shape)

    def _rows(self, shape: Sequence[int]) -> tuple[int, int]:
        """Rows, and values of each."""
        total = torch.Size(shape).numel()
        return shape[self.axis], total // max(shape[self.axis], 1)


def _join(codes: Tensor) -> Tensor:
    """Two integers of 4 bits in a byte, the first in the lower half; 8 is added to each."""
    halves = pad(codes + 8, (0, len(codes) % 2)).to(torch.uint8).view(-1, 2)
    return halves[:, 0] | halves[:, 1] << 4


def _split(codes: Tensor) -> Tensor:
    """Undoes `_join`, but for a last half that only fills its byte."""
    return torch.stack([codes & 15, codes >> 4], dim=1).view(-1).to(torch.int8) - 8


def packed_names(name: str) -> tuple[str, str]:
    """Names of the two tensors that stand for a packed one."""
    return f"{name}.{CODES}", f"{name}.{SCALES}"


def packings(model: PreTrainedModel, family: Family, bits: Bits) -> dict[nn.Parameter, MatrixPacking]:
    """The matrices of a model that are packed: of all blocks, embeddings, and the output onto the vocabulary.

    Vectors such as biases and norms, and the head of a classifier, are not packed.

    Args:
        model: of any size; may be on the meta device, and have a tunable.
        family: of the model.
        bits: of each kind of matrix.
    """
    found: dict[nn.Parameter, MatrixPacking] = {}
    for block in blocks(model, family):
        if bits.attention:
            for path in block.stack.attention_matrices:
                found[block.module.get_parameter(f"{path}.weight")] = MatrixPacking(bits.attention)
        if bits.ffn:
            for tensor in neuron_tensors(block):
                found[block.module.get_parameter(tensor.name)] = MatrixPacking(bits.ffn, tensor.axis)
    if bits.embeddings:
        found |= {parameter: MatrixPacking(bits.embeddings) for parameter in _embeddings(model, family)}
    return {parameter: packing for parameter, packing in found.items() if parameter.dim() > 1}


def _embeddings(model: PreTrainedModel, family: Family) -> Iterable[nn.Parameter]:
    """Parameters of embeddings, and the output onto the vocabulary, which is often one of them."""
    modules = dict(model.base_model.named_modules())
    for path in family.embeddings:
        if path in modules:
            yield from modules[path].parameters()
    if (output := model.get_output_embeddings()) is not None:
        yield output.weight


def named(
    tensors: Iterable[tuple[str, Tensor]], packed: Mapping[nn.Parameter, MatrixPacking]
) -> dict[str, MatrixPacking]:
    """`packings` by the names that these tensors have."""
    return {name: packed[tensor] for name, tensor in tensors if isinstance(tensor, nn.Parameter) and tensor in packed}


@torch.no_grad()
def round_in_place(packed: Mapping[nn.Parameter, MatrixPacking]) -> None:
    """Gives parameters the values that clients get."""
    for parameter, packing in packed.items():
        parameter.copy_(packing.round(parameter))


def pack(params: Mapping[str, Tensor], packed: Mapping[str, MatrixPacking]) -> Params:
    """Integers and scales in place of the tensors that ``packed`` names; others stay as they are.

    Raises:
        RecipeError: at ``proxy.bits``: a value is not finite.
    """
    found: Params = {}
    for name, tensor in params.items():
        if (packing := packed.get(name)) is None:
            found[name] = tensor
            continue
        if not is_finite(tensor):
            raise RecipeError(f"{name} has values that are not finite, so it cannot be quantised", where="proxy.bits")
        found |= zip(packed_names(name), packing.pack(tensor), strict=True)
    return found


def packed_sizes(params: Mapping[str, Tensor], packed: Mapping[str, MatrixPacking]) -> Params:
    """Tensors with dtypes and shapes of what `pack` makes; packed ones are on the meta device."""
    found: Params = {}
    for name, tensor in params.items():
        if (packing := packed.get(name)) is None:
            found[name] = tensor
        else:
            found |= zip(packed_names(name), packing.sizes(tensor.shape), strict=True)
    return found


def unpack(
    params: Mapping[str, Tensor], packed: Mapping[str, MatrixPacking], shapes: Mapping[str, Sequence[int]]
) -> Params:
    """The tensors that `pack` was given, rounded.

    Args:
        params: as `pack` writes them.
        packed: how each packed tensor is packed.
        shapes: of each packed tensor.

    Raises:
        ValueError: integers or scales are missing, or not those of such a tensor.
    """
    parts = {part for name in packed for part in packed_names(name)}
    found = {name: tensor for name, tensor in params.items() if name not in parts}
    for name, packing in packed.items():
        codes, scales = packed_names(name)
        if lacking := [part for part in (codes, scales) if part not in params]:
            raise ValueError(f"{lacking[0]} is missing")
        try:
            found[name] = packing.unpack(params[codes], params[scales], shapes[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return found
