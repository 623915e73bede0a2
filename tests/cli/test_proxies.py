"""``fedfm proxy``: options reach the server's functions, and results are printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner, Result

from fedfm.cli.main import main
from fedfm.cli.proxies import BITS, SCORES
from fedfm.proxies.fedpft.settings import FedPFT, NeuronScore
from fedfm.proxies.settings import Bits
from fedfm.recipe import Recipe
from fedfm.yaml_text import render
from tests.small import small_recipe

BACKBONE: dict[str, Any] = {
    "title": "backbone",
    "layers": 6,
    "cut": 0,
    "blocks": 10_646_784,
    "total": 22_713_216,
    "flops": 2_818_572_288,
    "training_memory": 412_000_000,
    "first_download": 90_852_864,
    "disclosed": 1.0,
    "probe": None,
}
PROXY = {**BACKBONE, "title": "FedPFT", "cut": 4, "blocks": 7_102_848, "disclosed": 0.445, "flops": 1_900_000_000}
OFFSITE = {**BACKBONE, "title": "offsite tuning", "layers": 4, "blocks": 7_097_856, "training_memory": 300_000_000}
FOUND: dict[str, Any] = {
    "model": "builtin:minilm",
    "family": "bert",
    "tokens": 128,
    "batch_size": 16,
    "settings": {"ffn_keep": 0.25, "keep_layers": [0, -1], "score": "concat-l2"},
    "public": None,
    "holders": ["backbone", "proxy", "offsite"],
    "backbone": BACKBONE,
    "proxy": PROXY,
    "offsite": OFFSITE,
}
BUILT: dict[str, Any] = {
    "path": "proxy",
    "kind": "fedpft",
    "parameters": {"blocks": 7_102_848, "backbone_blocks": 10_646_784, "total": 19_100_000},
    "disclosed": 0.445,
    "first_download": 76_400_000,
    "seconds": 12.3,
    "probes": [
        {"stage": "constructed", "gradient_cosine": 0.5351, "gradient_error": 0.93},
        {"stage": "closed-form", "gradient_cosine": 0.75, "gradient_error": None},
    ],
}


class Server:
    """Notes what it is called with."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        self.calls.append((arguments, named))
        return self.answer


@pytest.fixture
def inspector(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server(FOUND)
    monkeypatch.setattr("fedfm.proxies.inspection.inspect_proxy", server)
    return server


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server(BUILT)
    monkeypatch.setattr("fedfm.server.runs.proxy_tools.build_proxy", server)
    return server


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["proxy", *map(str, arguments)])


def rows(output: str) -> dict[str, list[str]]:
    """The cells of a table's lines after their first."""
    cells = [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in output.splitlines()]
    return {first: rest for first, *rest in filter(None, cells)}


def test_inspecting_asks_for_a_recipes_proxy(inspector: Server) -> None:
    assert invoke("inspect", "builtin:minilm").exit_code == 0
    ((arguments, named),) = inspector.calls
    assert arguments == ("builtin:minilm",)
    assert named == {
        "ffn_keep": 0.25,
        "keep_layers": [0, -1],
        "score": None,
        "adapters": 2,
        "tokens": 128,
        "batch_size": 16,
        "public": None,
        "bits": Bits(),
        "allow_network": False,
    }
    settings = FedPFT()
    assert (settings.ffn_keep, settings.keep_layers, settings.score) == (0.25, [0, -1], None)


def test_every_option_reaches_the_server(inspector: Server) -> None:
    options = "--ffn-keep 0.1 --keep-layers 1,2,-1 --score product --adapters 1 --tokens 64 --batch-size 4 --public x"
    options += " --bits attention=4 --bits embeddings=8"
    assert invoke("inspect", "m", *options.split(), "--allow-network").exit_code == 0
    bits = Bits(attention=4, embeddings=8)
    assert list(inspector.calls[0][1].values()) == [0.1, [1, 2, -1], "product", 1, 64, 4, "x", bits, True]
    assert invoke("inspect", "m", "--keep-layers", "").exit_code == 0
    assert inspector.calls[1][1]["keep_layers"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ffn-keep", "0"], "0.0 is not in the range 0<x<=1"),
        (["--keep-layers", "first"], "'first' is not a list of layers such as 0,-1"),
        (["--score", "norm"], "'norm' is not one of 'concat-l2'"),
        (["--bits", "ffn=3"], "'ffn=3' is not one of 'attention=4'"),
    ],
)
def test_wrong_options_are_told(inspector: Server, options: list[str], message: str) -> None:
    result = invoke("inspect", "m", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    told = json.loads(invoke("inspect", "m", *options, "--json").stdout)
    assert message in told["error"]
    assert inspector.calls == []


def test_scores_are_those_of_the_recipe() -> None:
    assert get_args(NeuronScore) == SCORES
    named = [
        f"{part}={bits}"
        for part, info in Bits.model_fields.items()
        for choices in get_args(info.annotation)
        for bits in get_args(choices)
    ]
    assert tuple(named) == BITS


def test_what_clients_would_hold_stands_side_by_side(inspector: Server) -> None:
    output = invoke("inspect", "builtin:minilm").output
    assert output.startswith("builtin:minilm (bert), 25.0 % of the neurons of all but layers 0, -1\n")
    assert rows(output) | {
        "backbone": ["FedPFT", "offsite tuning"],
        "layers": ["6", "6, 4 cut", "4"],
        "parameters of all layers": ["10.6 M", "66.7 %  7.10 M", "66.7 %  7.10 M"],
        "forward pass of 128 tokens": ["2.82 GFLOP", "1.90 GFLOP", "2.82 GFLOP"],
        "memory of a step of 16 × 128 tokens": ["412 MB", "412 MB", "300 MB"],
        "first download": ["90.9 MB", "90.9 MB", "90.9 MB"],
        "backbone's layers disclosed, at most": ["100 %", "44.5 %", "100 %"],
    } == rows(output)
    assert "gradient cosine" not in output
    assert "--public" in output
    assert output.replace("\n", "").isprintable(), "no control characters where there is no terminal"


def test_probes_are_told_where_there_is_public_data(inspector: Server) -> None:
    probe = {"gradient_cosine": 0.535, "gradient_error": 0.93, "hidden_error": None}
    inspector.answer = {**FOUND, "public": "x", "proxy": {**PROXY, "probe": probe}}
    output = invoke("inspect", "m").output
    assert rows(output)["gradient cosine"] == ["–", "0.535", "–"]
    assert rows(output)["relative gradient error"] == ["–", "0.930", "–"]
    assert rows(output)["relative error of outputs"] == ["–", "–", "–"]
    assert "--public" not in output


def test_there_may_be_no_offsite_proxy_of_that_size(inspector: Server) -> None:
    inspector.answer = {**FOUND, "offsite": None}
    assert rows(invoke("inspect", "m").output)["layers"] == ["6", "6, 4 cut"]


def test_inspecting_as_json(inspector: Server) -> None:
    assert json.loads(invoke("inspect", "m", "--json").stdout) == FOUND


def test_building_reads_the_recipe_and_says_what_comes_next(builder: Server, tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(render(small_recipe(tmp_path)), encoding="utf-8")
    result = invoke("build", recipe, "proxy", "seed=5")
    assert result.exit_code == 0, result.output
    (((read, folder), _),) = builder.calls
    assert isinstance(read, Recipe)
    assert (read.seed, folder) == (5, Path("proxy"))
    assert rows(result.output.replace("  ", "   ")) | {
        "parameters of all layers": ["7.10 M, 66.7 % of the backbone's"],
        "backbone's layers disclosed": ["44.5 %"],
        "gradient, constructed": ["cosine 0.535, relative error 0.930"],
        "gradient, closed form": ["cosine 0.750, relative error –"],
    } == rows(result.output.replace("  ", "   "))
    assert result.output.endswith(f"Next:  fedfm run {recipe} seed=5 proxy.path=proxy\n")
    assert json.loads(invoke("build", recipe, "proxy", "--json").stdout) == BUILT
