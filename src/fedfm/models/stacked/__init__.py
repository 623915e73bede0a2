"""Trains many clients' values of one tunable in one pass through the frozen backbone."""

from fedfm.models.stacked.example_stack import ExampleStack
from fedfm.models.stacked.layout import Layout, UnstackableError
from fedfm.models.stacked.packing import PackedBlocks, Packing, packing_of, reading
from fedfm.models.stacked.prefix import FrozenPrefix
from fedfm.models.stacked.tunable import StackedTunable

__all__ = [
    "ExampleStack",
    "FrozenPrefix",
    "Layout",
    "PackedBlocks",
    "Packing",
    "StackedTunable",
    "UnstackableError",
    "packing_of",
    "reading",
]
