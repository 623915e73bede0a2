"""Rules on the factors of low-rank updates, and the error of such a rule. One rule, one file."""

from fedfm.aggregation.lora.error import AggregationError
from fedfm.aggregation.lora.fedex import FedEx
from fedfm.aggregation.lora.fedmomentum import FedMomentum
from fedfm.aggregation.lora.fedrot import FedRot
from fedfm.aggregation.lora.fedsvd import FedSvd
from fedfm.aggregation.lora.ffa import FfaLora
from fedfm.aggregation.lora.flexlora import FlexLora
from fedfm.aggregation.lora.flora import Flora
from fedfm.aggregation.lora.hetlora import HetLora
from fedfm.aggregation.lora.lora_fair import LoraFair
from fedfm.aggregation.lora.rolora import RoLora

__all__ = [
    "AggregationError",
    "FedEx",
    "FedMomentum",
    "FedRot",
    "FedSvd",
    "FfaLora",
    "FlexLora",
    "Flora",
    "HetLora",
    "LoraFair",
    "RoLora",
]
