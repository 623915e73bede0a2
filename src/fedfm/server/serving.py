"""A recipe for clients on machines of their own."""

from __future__ import annotations

from typing import Any

from fedfm.data.settings import SITES
from fedfm.recipe import Recipe, load_recipe
from fedfm.runtimes.settings import Flower


def for_sites(recipe: Recipe, clients: int) -> Recipe:
    """A recipe, perhaps of a simulation, as it is with clients that hold their own data.

    What decides how data is split goes; the rest stays as it is.

    Args:
        recipe: the simulation's.
        clients: how many there are.

    Raises:
        RecipeError: it needs the clients' data at the server; lists every problem.
    """
    values: dict[str, Any] = recipe.model_dump()
    values["data"] |= {"train": SITES, "client": None, "limit": None}
    values["federation"] |= {"clients": clients, "partition": None}
    shared = {key: value for key, value in values["runtime"].items() if key in Flower.model_fields}
    values["runtime"] = shared | {"kind": "flower", "nodes": clients}
    return load_recipe(values)
