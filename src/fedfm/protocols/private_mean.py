"""A round's updates under a promise of privacy: rule and algorithm get one private mean, as if it were one update."""

from __future__ import annotations

from collections.abc import Iterable

from fedfm.aggregation import Contribution
from fedfm.params import Params
from fedfm.privacy import Release
from fedfm.protocols.io import ClientUpdate
from fedfm.updates import Done
from fedfm.wire import TUNABLE


def private_mean(release: Release, updates: Iterable[ClientUpdate]) -> tuple[ClientUpdate, Params]:
    """The mean that a release makes of updates, and what it keeps for the next round.

    Without any update it is noise alone, so that nobody learns that no one took part.

    Args:
        release: as `fedfm.protocols.IO.release` gives it.
        updates: of the round.
    """
    for update in updates:
        release.add(update.groups)
    groups, kept = release.result()
    whole = dict.fromkeys(groups[TUNABLE], ())
    facts, counts_as_one = Done(client="", examples=0, steps=1), Contribution("", 1, 1)
    return ClientUpdate("", groups, facts, counts_as_one, whole, expected=release.expected), kept
