"""What a generator of synthetic texts is: it writes first candidates for a class, and variations of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol as Interface

from fedfm.settings import Settings


class TextWriter(Interface):
    """A generator that is ready to write. Equal arguments give equal texts; texts are never empty."""

    def first(self, label: str, count: int, seed: int) -> list[str]:
        """Texts for a class, written from its name.

        Args:
            label: name of the class.
            count: texts.
            seed: key of the random choices.
        """
        ...

    def varied(self, texts: Sequence[str], label: str, seed: int) -> list[str]:
        """One variation of each text.

        Args:
            texts: of the class.
            label: name of the class.
            seed: key of the random choices.
        """
        ...


class TextGenerator(Settings):
    """Settings of a generator. It runs at the server and knows nothing of the clients' data."""

    kind: str

    def writer(self, seed: int) -> TextWriter:
        """The generator, ready to write.

        Args:
            seed: the run's seed.

        Raises:
            RecipeError: it cannot be loaded.
        """
        raise NotImplementedError
