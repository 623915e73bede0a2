"""Every input of ``../shared/cases``, where that folder lies beside the checkout, against what is right for it.

``expected*.json`` say of each case either what it loads as, or how it is refused::

    "CASE": {"loads": {"rows": 40, "labels": ["neg", "pos"], "clients": ["a"], "warnings": ["words"]}}
    "CASE": {"refused": {"code": 3, "words": ["words"], "row": 7}}

CASE is a folder, or FOLDER/FILE where each file is a case of its own. ``rows`` counts training examples before any
are held back; ``labels``, ``clients``, ``warnings`` and ``row`` may be left out. ``overrides`` are added to those that
a case gets by its name; ``{case}`` in them is its path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedfm.errors import FedfmError
from fedfm.recipe import Recipe, load_recipe
from fedfm.server.experiment.build import build_experiment
from fedfm.server.experiment.federated_data import FederatedData, prepare_data

CASES = Path(__file__).parents[3] / "shared" / "cases"
FILES = CASES / "files"
HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason=f"the cases are not here ({CASES})")


def expectations() -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    for path in sorted(HERE.glob("expected*.json")):
        found = json.loads(path.read_text())
        assert not known.keys() & found.keys(), f"{path.name} repeats {sorted(known.keys() & found.keys())}"
        known |= found
    return known


def unlisted(known: dict[str, Any]) -> Iterator[str]:
    """Cases without an expectation; where files of a folder have one, each of its files must."""
    for folder in sorted(FILES.iterdir()):
        listed = {name for name in known if name.partition("/")[0] == folder.name}
        if folder.is_dir() and not listed:
            yield folder.name
        elif folder.is_dir() and folder.name not in listed:
            yield from (name for file in folder.iterdir() if (name := f"{folder.name}/{file.name}") not in listed)


def recipe_of(name: str, overrides: list[str]) -> Recipe:
    """The recipe that a user would write for a case."""
    path = FILES / name
    values = yaml.safe_load((FILES / "base_text.yaml").read_text())
    if (path / "recipe.yaml").is_file():
        values = yaml.safe_load((path / "recipe.yaml").read_text())
    elif name.startswith("model-"):
        values["model"]["path"] = str(path)
        values["data"]["train"] = str(FILES / "label-case-vs-model" / "train.csv")
    else:
        values["data"]["train"] = str(_data_in(path))
        values["data"]["test"] = next((str(file) for file in path.glob("test.*")), values["data"]["test"])
    if name.startswith(("img-", "npz-", "model-vit")):
        values["task"]["kind"] = "image-classification"
        values["model"]["path"] = str(FILES / "model-vit")
    if name == "model-vit":
        values["data"]["train"] = str(FILES / "img-nested")
    return load_recipe(values, [override.replace("{case}", values["data"]["train"]) for override in overrides])


def _data_in(path: Path) -> Path:
    """What ``data.train`` names: a file called train, or the only thing in a folder, or all of the folder."""
    if path.is_file() or path.name.startswith("img-"):
        return path
    entries = list(path.iterdir())
    named = [entry for entry in entries if entry.is_file() and entry.name.startswith("train.")]
    if len(named) == 1:
        return named[0]
    return entries[0] if len(entries) == 1 else path


def read(recipe: Recipe, name: str) -> FederatedData:
    """What `fedfm check` reads; the model only where that is what the case is about."""
    return build_experiment(recipe).data if name.startswith(("model-", "bert-")) else prepare_data(recipe)


def faults(name: str, expected: dict[str, Any]) -> Iterator[str]:
    """What is not as expected."""
    try:
        data = read(recipe_of(name, expected.get("overrides", [])), name)
    except FedfmError as error:
        if "refused" not in expected:
            yield f"is refused: {error}"
            return
        wanted, said = expected["refused"], str(error)
        if error.exit_code != wanted["code"]:
            yield f"exit code {error.exit_code}, not {wanted['code']}: {said}"
        yield from (f"does not say {words!r}: {said}" for words in wanted["words"] if words not in said)
        if "row" in wanted and not re.search(rf"(row |:){wanted['row']}\b", said):
            yield f"does not name row {wanted['row']}: {said}"
        return
    except Exception as error:  # what a user would see as a crash is a fault like others
        yield f"ends with {type(error).__name__}: {error}"
        return
    if "loads" not in expected:
        yield f"loads, with {sum(data.clients.values())} training examples"
        return
    assert data.training is not None
    held_back = sum(len(source) for source in data.training.held_back.values())
    found = {
        "rows": len(data.training.train) + held_back,
        "labels": None if data.labels is None else list(data.labels.names),
        "clients": sorted(data.clients),
    }
    for key, value in expected["loads"].items():
        if key == "warnings":
            yield from (f"does not warn of {text!r}" for text in value if text not in "\n".join(data.warnings))
        elif found[key] != value:
            yield f"{key}: {found[key]}, not {value}"


def test_each_case_is_read_or_refused_as_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)  # paths in the cases start here
    known = expectations()
    wrong = [f"{name}: not in expected*.json" for name in unlisted(known)]
    for name, expected in known.items():
        assert (FILES / name).exists(), f"{name} is in expected*.json, but not in {FILES}"
        wrong += [f"{name}: {fault}" for fault in faults(name, expected)]
    assert not wrong, "\n".join([f"{len(wrong)} faults", *wrong])
