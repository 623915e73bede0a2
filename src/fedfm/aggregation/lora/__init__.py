"""Rules on the factors of low-rank updates. One rule, one file."""

from fedfm.aggregation.lora.fedex import FedEx
from fedfm.aggregation.lora.fedmomentum import FedMomentum
from fedfm.aggregation.lora.flora import Flora
from fedfm.aggregation.lora.hetlora import HetLora

__all__ = ["FedEx", "FedMomentum", "Flora", "HetLora"]
