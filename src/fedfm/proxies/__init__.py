"""Proxies: smaller models that clients tune in place of the backbone.

Each kind is a folder with its settings in ``settings.py``. Adding one: write its folder, add its row to `PROXIES`. The
rest of fedfm knows no kind: it reads what `ProxySettings` declare, and uses the interface in `fedfm.proxies.base`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from fedfm.proxies.fedpft.settings import FedPFT
from fedfm.proxies.offsite.settings import Offsite
from fedfm.proxies.settings import NoProxy, ProxySettings

PROXIES: dict[str, type[ProxySettings]] = {
    "none": NoProxy,
    "fedpft": FedPFT,
    "offsite": Offsite,
}

if TYPE_CHECKING:
    AnyProxy = ProxySettings
    """The recipe's ``proxy``: for the type checker, what all kinds have in common."""
else:
    AnyProxy = Annotated[Union[tuple(PROXIES.values())], Field(discriminator="kind")]  # noqa: UP007 - made at run time

__all__ = ["PROXIES", "AnyProxy", "NoProxy", "ProxySettings"]
