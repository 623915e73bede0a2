"""Every algorithm and tunable of a paper has the name that its paper uses."""

from __future__ import annotations

from fedfm.algorithms import ALGORITHMS
from fedfm.models.tunables import TUNABLES
from fedfm.records.names import NAMES, written


def test_every_algorithm_is_named_and_nothing_else_but_tunables() -> None:
    assert ALGORITHMS.keys() <= NAMES.keys() <= ALGORITHMS.keys() | TUNABLES.keys()
    assert all(name.lower().replace("³", "3") == key for key, name in NAMES.items())


def test_what_has_no_other_name_keeps_its_own() -> None:
    assert (written("fedavgm"), written("head")) == ("FedAvgM", "head")
