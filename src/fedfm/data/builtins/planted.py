"""``builtin:planted``: sentences from templates in which it is known what belongs to a class, to test synthetic data.

The generator `templates` has all words of all slots, and does not know which of them a class has. The data has some of
the fillings only: the `MODES` of a class are its own four subjects, and the three qualities that occur at all.
"""

from __future__ import annotations

from types import MappingProxyType

from datasets import Dataset

from fedfm.data.builtins.splitting import is_test
from fedfm.data.cache import cache_key, cached
from fedfm.randomness import numpy_generator

TEMPLATES = (
    "the {subject} was {quality}, {ending}",
    "{ending}: the {subject} seemed {quality}",
    "we found the {subject} {quality} and {ending}",
)
"""Sentences with slots."""

SUBJECTS = MappingProxyType(
    {
        "food": ("soup", "bread", "salad", "dessert"),
        "travel": ("train", "airport", "ticket", "harbour"),
        "health": ("doctor", "clinic", "vaccine", "surgery"),
        "sport": ("match", "goalkeeper", "stadium", "referee"),
    }
)
"""Class → the subjects of its sentences."""

QUALITIES = ("cold", "late", "expensive")
"""Qualities that occur in the data, in every class."""

OTHER_QUALITIES = ("warm", "early", "cheap", "purple", "ancient", "silent", "hollow", "famous", "wooden")
"""Qualities that the generator has beside them."""

SLOTS = MappingProxyType(
    {
        "subject": tuple(word for words in SUBJECTS.values() for word in words),
        "quality": (*QUALITIES, *OTHER_QUALITIES),
        "ending": ("nobody said why", "as in the last year", "so we left", "which we did not mind"),
    }
)
"""Slot → the words that the generator has for it."""

ROWS = 2500


def planted() -> Dataset:
    """Columns ``text``, ``label`` and ``mode``, the subject and quality of the sentence."""
    return cached(cache_key(kind="builtin:planted", version=1), lambda scratch: _build())


def _build() -> Dataset:
    rng = numpy_generator(0, "builtin:planted")
    rows: dict[str, list[object]] = {"text": [], "label": [], "mode": [], "is_test": []}
    for number in range(ROWS):
        label = list(SUBJECTS)[int(rng.integers(len(SUBJECTS)))]
        subject, quality, ending, template = (
            str(rng.choice(words)) for words in (SUBJECTS[label], QUALITIES, SLOTS["ending"], TEMPLATES)
        )
        rows["text"].append(template.format(subject=subject, quality=quality, ending=ending))
        rows["label"].append(label)
        rows["mode"].append(f"{subject} {quality}")
        rows["is_test"].append(is_test(f"{number}"))
    return Dataset.from_dict(rows)


def is_right(text: str, label: str) -> bool:
    """Whether a sentence has a subject of its class and a quality of the data: 1 of 16 of the generator's has."""
    words = set(text.replace(",", " ").replace(":", " ").split())
    return bool(words & set(SUBJECTS[label])) and bool(words & set(QUALITIES))
