"""What a run is: one recipe."""

from fedfm.recipe.commented import commented
from fedfm.recipe.files import dump, load_recipe
from fedfm.recipe.schema import Recipe

__all__ = ["Recipe", "commented", "dump", "load_recipe"]
