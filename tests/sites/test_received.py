"""A proxy's files are data and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedfm.errors import DataError
from fedfm.recipe import load_recipe
from fedfm.server.proxy_tools import build_proxy
from fedfm.sites.received import receive_proxy
from fedfm.tasks import TASKS
from tests.alike import RECIPES
from tests.small import small_recipe

AUTO = TASKS["text-classification"].auto_class


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("proxy")
    build_proxy(load_recipe(small_recipe(folder, **RECIPES["fedpft"])), folder / "proxy")
    return {path.name: path.read_bytes() for path in (folder / "proxy").iterdir()}


def test_a_proxy_arrives_with_its_tokenizer(files: dict[str, bytes]) -> None:
    received = receive_proxy(files, AUTO)
    assert received.model.processor("good thing")["input_ids"]
    assert received.held.number == 0


@pytest.mark.parametrize("name", ["../x.json", "/x.json", "", "..", "code.py", "weights.bin", "a/b.json"])
def test_names_that_have_no_business_there(files: dict[str, bytes], name: str) -> None:
    with pytest.raises(DataError, match="no business"):
        receive_proxy({name: b"{}"} | files, AUTO)


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
def test_settings_that_reach_out_of_the_folder(files: dict[str, bytes], file: str, key: str, value: object) -> None:
    changed = json.loads(files[file]) | {key: value}
    with pytest.raises(DataError, match=f"{file} of the proxy"):
        receive_proxy(files | {file: json.dumps(changed).encode()}, AUTO)


def test_no_json(files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no JSON"):
        receive_proxy(files | {"extra.json": b"{"}, AUTO)
