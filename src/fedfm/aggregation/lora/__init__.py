"""Rules on the factors of low-rank updates. One rule, one file."""

from fedfm.aggregation.lora.hetlora import HetLora

__all__ = ["HetLora"]
