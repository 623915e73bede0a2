"""What a privacy setting is: what it promises, of a round's sum at the server or of local steps at each client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal
from typing import Protocol as Interface

from fedfm.privacy.attendance import Attendance
from fedfm.privacy.ledger import Charge
from fedfm.privacy.promise import Promise
from fedfm.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from fedfm.params import Params
    from fedfm.privacy.example_promise import ExamplePromise
    from fedfm.spec import Spec


class LocalSteps(Interface):
    """What of the recipe's ``local`` an accountant reads."""

    @property
    def batch_size(self) -> int:
        """Examples a step."""
        ...

    def steps(self, examples: int) -> int:
        """Steps a round of a client with so many examples."""
        ...


Charged = Callable[[Charge], None]
"""Records a release. When it returns, the record is on disk."""


class Release(Interface):
    """One round's release: it takes the updates of clients and gives one private mean in their place."""

    @property
    def expected(self) -> float:
        """The number that the sum of updates is divided by, whoever answered."""
        ...

    def add(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes one client's update.

        Args:
            groups: all that the client sent and the server combines, decoded, with the names of the round's spec.
        """
        ...

    def result(self) -> tuple[dict[str, Params], Params]:
        """The private mean by group, and the state for the next round; it is charged first.

        Without any update it is noise alone: what is released must not say that nobody took part.
        """
        ...


class Privacy(Settings):
    """What a run promises. The base class promises nothing and leaves updates as they are."""

    kind: str
    """What is promised about the clients' data."""

    @property
    def norm_bound(self) -> float | None:
        """The L2 norm that a client's update counts with at most, in the first round; None: any."""
        return None

    def refuses(self, attendance: Attendance) -> str | None:
        """Why the settings do not fit a federation; None where they do."""
        return None

    def promise(self, attendance: Attendance) -> Promise | None:
        """What a run with these settings promises; None for nothing.

        Args:
            attendance: who takes part in its rounds.

        Raises:
            RecipeError: the settings do not fit the federation.
        """
        return None

    def examples(self, local: LocalSteps, rounds: int) -> ExamplePromise | None:
        """What is promised about single examples, which each client keeps in its local steps; None for nothing.

        Args:
            local: how clients train.
            rounds: of the run.
        """
        return None

    def release(
        self,
        promise: Promise,
        groups: Mapping[str, Spec],
        *,
        round: int,  # noqa: A002 - the field's word
        state: Params,
        charged: Charged,
    ) -> Release:
        """The release of one round; only where something is promised.

        Args:
            promise: of the run.
            groups: what each client sends in the round, in the same tensors for all of them.
            round: 1-based round.
            state: as the last release left it; empty before the first.
            charged: is called before noise is drawn.
        """
        raise NotImplementedError


class NoPrivacy(Privacy):
    """No differential privacy: ε = ∞."""

    kind: Literal["none"] = "none"
    """No differential privacy (ε = ∞)."""
