"""Rules on the factors of low-rank updates, and the error of such a rule. One rule, one file."""

from fedfm.aggregation.lora.error import AggregationError
from fedfm.aggregation.lora.fedrot import FedRot
from fedfm.aggregation.lora.fedsvd import FedSvd
from fedfm.aggregation.lora.ffa import FfaLora
from fedfm.aggregation.lora.flexlora import FlexLora
from fedfm.aggregation.lora.hetlora import HetLora
from fedfm.aggregation.lora.lora_fair import LoraFair
from fedfm.aggregation.lora.rolora import RoLora

__all__ = ["AggregationError", "FedRot", "FedSvd", "FfaLora", "FlexLora", "HetLora", "LoraFair", "RoLora"]
