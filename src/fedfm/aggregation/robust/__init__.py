"""Rules that compare the updates of a round, and what can be done to the updates before a rule. One method, one file.

A rule here is a function of the updates' scalar products, the Gram matrix G[i, j] = ⟨x_i, x_j⟩, which is small and is
added up tensor by tensor (`grams`). Its result is a linear combination of the updates.
"""

from fedfm.aggregation.robust.base import ComparingRule, MixingRule
from fedfm.aggregation.robust.bulyan import Bulyan
from fedfm.aggregation.robust.centered_clipping import CenteredClipping
from fedfm.aggregation.robust.foolsgold import FoolsGold
from fedfm.aggregation.robust.geometric_median import GeometricMedian
from fedfm.aggregation.robust.krum import Krum, MultiKrum
from fedfm.aggregation.robust.norm_clip import NormClip
from fedfm.aggregation.robust.smea import Smea

__all__ = [
    "Bulyan",
    "CenteredClipping",
    "ComparingRule",
    "FoolsGold",
    "GeometricMedian",
    "Krum",
    "MixingRule",
    "MultiKrum",
    "NormClip",
    "Smea",
]
