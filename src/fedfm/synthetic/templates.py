"""Templates with slots: a generator without a model, for tests and for tasks whose right answer is known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from fedfm.data.builtins.planted import SLOTS, TEMPLATES
from fedfm.synthetic.base import TextGenerator

SLOT = re.compile(r"\{([a-z_]+)\}")
LABEL = "label"
"""The slot that the name of the class fills."""


class Templates(TextGenerator):
    """Sentences with slots that are filled with words at random."""

    kind: Literal["templates"] = "templates"
    """Sentences with slots that are filled with words at random; by default those of `builtin:planted`."""
    templates: Annotated[list[str], Field(min_length=1)] = list(TEMPLATES)
    """Sentences with slots in braces; `{label}` is the name of the class."""
    slots: Annotated[dict[str, Annotated[list[str], Field(min_length=1)]], Field(min_length=1)] = {
        name: list(words) for name, words in SLOTS.items()
    }
    """Name of a slot → the words that can fill it."""

    @model_validator(mode="after")
    def _known_slots(self) -> Self:
        for template in self.templates:
            if not template.strip():
                raise ValueError("a template is empty")
            for name in SLOT.findall(template):
                if name != LABEL and name not in self.slots:
                    raise ValueError(f"template {template!r} has the slot `{name}`, which `slots` does not have")
        return self

    def writer(self, seed: int) -> TemplateWriter:
        """A writer; there is nothing to load."""
        return TemplateWriter(tuple(self.templates), {name: tuple(words) for name, words in self.slots.items()})


class TemplateWriter:
    """Fills slots; a variation replaces the word of one slot, or chooses another template."""

    def __init__(self, templates: Sequence[str], slots: Mapping[str, Sequence[str]]) -> None:
        """A writer.

        Args:
            templates: sentences with slots.
            slots: words by slot.
        """
        self._templates, self._slots = templates, slots
        self._patterns = [self._pattern(template) for template in templates]

    def first(self, label: str, count: int, seed: int) -> list[str]:
        """As `TextWriter.first`; every template and every word is as likely as another."""
        rng = np.random.default_rng(seed)
        return [self._fill(int(rng.integers(len(self._templates))), {}, label, rng) for _ in range(count)]

    def varied(self, texts: Sequence[str], label: str, seed: int) -> list[str]:
        """As `TextWriter.varied`; a text of no template is replaced by a new one."""
        rng = np.random.default_rng(seed)
        return [self._vary(text, label, rng) for text in texts]

    def _vary(self, text: str, label: str, rng: np.random.Generator) -> str:
        for place, pattern in enumerate(self._patterns):
            if found := pattern.fullmatch(text):
                words = {name: word for name, word in found.groupdict().items() if name != LABEL}
                changed = [*words, LABEL][int(rng.integers(len(words) + 1))]
                words.pop(changed, None)
                if changed == LABEL:
                    place = int(rng.integers(len(self._templates)))
                return self._fill(place, words, label, rng)
        return self.first(label, 1, int(rng.integers(2**31)))[0]

    def _fill(self, place: int, words: Mapping[str, str], label: str, rng: np.random.Generator) -> str:
        """A template with some words given; a slot that occurs twice has one word."""
        chosen = {LABEL: label, **words}

        def word(slot: re.Match[str]) -> str:
            if (name := slot[1]) not in chosen:
                chosen[name] = str(rng.choice(self._slots[name]))
            return chosen[name]

        return SLOT.sub(word, self._templates[place])

    def _pattern(self, template: str) -> re.Pattern[str]:
        """What texts of a template look like; the first place of a slot has its name."""
        parts, end, seen = [], 0, set[str]()
        for slot in SLOT.finditer(template):
            name = slot[1]
            words = "|".join(map(re.escape, self._slots.get(name, ()))) or ".+"
            parts.append(re.escape(template[end : slot.start()]))
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{words})")
            seen.add(name)
            end = slot.end()
        return re.compile("".join(parts) + re.escape(template[end:]), re.DOTALL)
