"""Recipes that are part of the package, in ``presets/``. The first line of each is a comment with its title."""

from __future__ import annotations

from pathlib import Path

from fedfm.errors import RecipeError, StorageError
from fedfm.spelling import nearest

FOLDER = Path(__file__).parent / "presets"

PRESETS = (
    "demo",
    "quick",
    "fedkseed",
    "decomfl",
    "submodels",
    "fedpm",
    "sst2-lora",
    "sst2-fedpft",
    "digits-vit",
    "multimodal",
    "multimodal-cream",
    "prompt-image-text",
    "fedclip",
    "multi-label",
    "token-classification",
    "regression",
    "multitask",
    "pydoc-llm",
    "pydoc-instruct",
    "pydoc-preference",
    "unseen-clients",
    "pydoc-rag",
    "synthetic",
    "synthetic-features",
    "pydoc-mlm",
    "pretrain",
    "pretrain-sparse",
    "lora-exact",
    "lora-products",
    "fed-sb",
    "lora-residual",
    "few-bits",
    "server-optimizers",
    "edges",
    "gossip",
    "greedy-soup",
    "learned-soup",
    "clusters",
    "continual",
    "continual-lwf",
    "continual-o-lora",
    "distill",
    "contributions",
    "afl",
    "selective",
    "secure-aggregation",
    "slow-links",
    "linear-tunables",
    "vera",
    "prompt-text",
    "p-tuning",
    "few-layers",
    "fedper",
    "fedbn",
    "fedsa-lora",
    "personal-ditto",
    "personal-adapters",
    "robust-krum",
    "robust-mixing",
    "dp-ffa",
    "dp-local",
    "audit-canaries",
    "paper-table1-bert",
    "paper-table1-roberta",
)
"""Names of the recipes, in reading order."""


def preset_text(name: str) -> str:
    """The text of a preset.

    Raises:
        RecipeError: no preset has this name.
    """
    if name not in PRESETS:
        close = nearest(name, PRESETS)
        hint = f" — did you mean `{close}`?" if close else ""
        raise RecipeError(f"no preset is called `{name}`; presets: {', '.join(PRESETS)}{hint}", source="recipes")
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def preset_title(name: str) -> str:
    """The title of a preset, in one line."""
    return preset_text(name).splitlines()[0].removeprefix("#").strip()


def copy_preset(name: str, target: Path) -> None:
    """Writes a preset to a new file.

    Raises:
        RecipeError: no preset has this name, or the file exists.
        StorageError: the file cannot be written.
    """
    text = preset_text(name)
    if target.is_dir():
        raise RecipeError("is a folder; give the path of a new file in it", source=str(target))
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise RecipeError("already exists and was not changed; choose another name", source=str(target)) from error
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror}") from error
