"""The files of a received proxy are read as data only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fedfm.errors import DataError
from fedfm.hosts.received import load_received
from fedfm.recipe import load_recipe
from fedfm.server.runs.proxy_tools import build_proxy
from fedfm.tasks import TASKS
from tests.alike import RECIPES
from tests.small import small_recipe

AUTO = TASKS["text-classification"].auto_class


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proxy")
    build_proxy(load_recipe(small_recipe(folder, **RECIPES["fedpft"])), folder / "proxy")
    return folder / "proxy"


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "received"))


def test_a_proxy_arrives_with_its_tokenizer(folder: Path) -> None:
    received = load_received(folder, AUTO)
    assert received.model.processor("good thing")["input_ids"]
    assert received.number == 0


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "auto_map", {"AutoModel": "code.Model"}),
        ("config.json", "_attn_implementation", "kernels-community/x"),
        ("config.json", "quantization_config", {"quant_method": "x"}),
        ("tokenizer_config.json", "vocab", "/etc/passwd"),
        ("tokenizer_config.json", "vocab_file", "~/.ssh/id"),
        ("tokenizer_config.json", "files", ["../../secret.txt"]),
        ("config.json", "name", "https://example.org/x"),
    ],
)
def test_settings_that_reach_out_of_the_folder(folder: Path, file: str, key: str, value: object) -> None:
    changed = json.loads((folder / file).read_text()) | {key: value}
    (folder / file).write_text(json.dumps(changed))
    with pytest.raises(DataError, match=f"{file} of the proxy"):
        load_received(folder, AUTO)


@pytest.mark.parametrize("text", ["{", "[" * 100_000 + "]" * 100_000])
def test_no_json(folder: Path, text: str) -> None:
    (folder / "extra.json").write_text(text)
    with pytest.raises(DataError, match="is not JSON"):
        load_received(folder, AUTO)


def test_settings_that_reach_out_from_any_depth_and_by_any_name(folder: Path) -> None:
    deep = '{"\\u001b[2J": ' * 900 + '{"auto_map": "x"}' + "}" * 900
    (folder / "extra.json").write_text(deep)
    with pytest.raises(DataError, match=r"sets `\.\\x1b\[2J.*characters\)`, which could load code"):
        load_received(folder, AUTO)
