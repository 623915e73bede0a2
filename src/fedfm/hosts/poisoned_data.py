"""What attackers among simulated clients do to the examples that they train on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
from datasets import Value

from fedfm.clients.attackers import attackers_of
from fedfm.data.examples import Examples
from fedfm.data.sources import Source
from fedfm.hosts.held_examples import HeldExamples
from fedfm.randomness import numpy_generator
from fedfm.recipe import Recipe


def poisoned(recipe: Recipe, held: HeldExamples) -> Examples:
    """The training examples as attackers have changed theirs; the same without an attack on data.

    Args:
        recipe: of the run.
        held: all training examples.

    Raises:
        RecipeError: as `fedfm.clients.attackers.Attack.relabel`.
    """
    examples, clients, labels = held.examples, held.clients, held.labels
    attack = recipe.federation.attackers
    if attack is None or not attack.poisons or labels is None or examples.labels is None:
        return examples
    picked = [np.empty(0, dtype=np.int64)]
    for client in sorted(attackers_of(attack, clients, recipe.seed)):
        own = clients[client]
        picked.append(own[attack.picks(len(own), numpy_generator(recipe.seed, "poison", client=client))])
    rows = np.concatenate(picked)
    changed = examples.labels.copy()
    changed[rows] = attack.relabel(changed[rows], labels.names)
    if attack.trigger:
        examples = held.encode(_with_phrase(held.source, recipe.data.text[0], attack.trigger, rows))
    return replace(examples, labels=changed)


def _with_phrase(source: Source, column: str, phrase: str, rows: np.ndarray) -> Source:
    """A source with a phrase before the text of some rows."""
    texts = list(source.table[column])
    for row in rows.tolist():
        texts[row] = f"{phrase} {texts[row]}"
    table = source.table.remove_columns(column).add_column(column, texts).cast_column(column, Value("string"))
    key = json.dumps([source.digest, column, phrase, rows.tolist()])
    return replace(source, table=table, digest=hashlib.sha256(key.encode()).hexdigest())
