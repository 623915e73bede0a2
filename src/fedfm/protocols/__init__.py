"""Protocols: who asks whom for what in a round, one a file. Adding one: write its file, add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.protocols.base import Messages, Protocol, ServerModel, State, SyntheticSet
from fedfm.protocols.buffered import Buffered
from fedfm.protocols.calibrated import Calibrated
from fedfm.protocols.clusters import Clusters
from fedfm.protocols.creamfl import CreamFL
from fedfm.protocols.decomfl import DeComFL
from fedfm.protocols.distillation import Distillation
from fedfm.protocols.evolution import Evolution
from fedfm.protocols.feature_transfer import FeatureTransfer
from fedfm.protocols.fedkseed import FedKSeed
from fedfm.protocols.gossip import Gossip
from fedfm.protocols.greedy_soup import GreedySoup
from fedfm.protocols.hierarchical import Hierarchical
from fedfm.protocols.io import IO, Ask, ClientUpdate
from fedfm.protocols.learned_soup import LearnedSoup
from fedfm.protocols.star import Star
from fedfm.registry import Choice

PROTOCOLS: dict[str, type[Protocol]] = {
    "star": Star,
    "buffered": Buffered,
    "hierarchical": Hierarchical,
    "gossip": Gossip,
    "distillation": Distillation,
    "creamfl": CreamFL,
    "greedy-soup": GreedySoup,
    "learned-soup": LearnedSoup,
    "clusters": Clusters,
    "fedkseed": FedKSeed,
    "decomfl": DeComFL,
    "calibrated": Calibrated,
    "feature-transfer": FeatureTransfer,
    "evolution": Evolution,
}

AnyProtocol = Annotated[Protocol, Choice(PROTOCOLS, "kind", "fedfm.protocols")]

__all__ = [
    "IO",
    "PROTOCOLS",
    "AnyProtocol",
    "Ask",
    "Buffered",
    "Calibrated",
    "ClientUpdate",
    "Clusters",
    "CreamFL",
    "DeComFL",
    "Distillation",
    "Evolution",
    "FeatureTransfer",
    "FedKSeed",
    "Gossip",
    "GreedySoup",
    "Hierarchical",
    "LearnedSoup",
    "Messages",
    "Protocol",
    "ServerModel",
    "Star",
    "State",
    "SyntheticSet",
]
