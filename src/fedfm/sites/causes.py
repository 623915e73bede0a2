"""Why a site does not do what a server asks: the sentences that the server gets."""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """Every sentence in which a site explains a refusal or failure to a server. None quotes what the site holds."""

    POLICY = "outside this site's policy"
    UNANNOUNCED = "more would leave the site than it announced"
    VERSION = "the site has another version of fedfm than the server: install the same version at both"
    RECIPE = "the run does not fit what is at the site"
    DATA = "the site's data or its model cannot be used for the run"
    MESSAGE = "the site cannot read what the server sent"
    MEMORY = "the site ran out of memory"
    STORAGE = "the site's disk is full, or cannot be written or read"
    TRAINING = "the client could not be trained"
    TIME = "the site's time limit was reached"
    ENDED = "the site's worker ended while it worked on this"
    UNFORESEEN = "the site met an unexpected error"

    def sentence(self, *keys: str) -> str:
        """The whole sentence, with keys of fedfm's own schemas in parentheses."""
        place = f" ({', '.join(keys)})" if keys else ""
        return f"{self.value}{place}; the site's own log has the details"
