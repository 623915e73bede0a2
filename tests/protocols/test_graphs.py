"""Graphs of clients: their matrices, their spectral gaps, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from fedfm.errors import RecipeError
from fedfm.protocols.graphs import (
    GRAPHS,
    Complete,
    ErdosRenyi,
    Exponential,
    FileGraph,
    Graph,
    RandomRegular,
    Ring,
    Torus,
    matrix,
    metropolis,
    spectral_gap,
)
from fedfm.protocols.graphs.base import Senders


def ids(count: int) -> list[str]:
    return [f"{number:02d}" for number in range(count)]


def written(folder: Path, lists: object) -> FileGraph:
    (folder / "graph.json").write_text(json.dumps(lists))
    return FileGraph(path=str(folder / "graph.json"))


def graph_of(kind: str, folder: Path) -> Graph:
    if kind == "file":  # a star with a tail: degrees that all differ
        star = {"00": ids(12)[1:11], "11": ["10"], **{client: ["00"] for client in ids(12)[1:11]}}
        return written(folder, star | {"10": ["00", "11"]})
    return GRAPHS[kind].model_validate({"kind": kind})


@pytest.mark.parametrize("kind", GRAPHS)
def test_rows_and_columns_sum_to_one_also_without_the_absent(kind: str, tmp_path: Path) -> None:
    graph, clients = graph_of(kind, tmp_path), ids(12)
    graph.check(clients)
    for here in (clients, clients[:1], clients[1:3], clients[::2], [*clients[:4], *clients[7:]]):
        for number in range(1, graph.period(len(clients)) + 2):
            weights = matrix(graph.among(here, clients, number))
            assert weights.shape == (len(here), len(here))
            np.testing.assert_allclose(weights.sum(0), 1, rtol=0, atol=1e-15)
            np.testing.assert_allclose(weights.sum(1), 1, rtol=0, atol=1e-15)
            assert (weights >= -1e-15).all()
    assert graph.among([], clients, 1) == {}


@pytest.mark.parametrize("kind", sorted(GRAPHS.keys() - {"file", "torus", "random-regular"}))
def test_one_two_and_three_clients(kind: str, tmp_path: Path) -> None:
    for count in (1, 2, 3):
        graph, clients = graph_of(kind, tmp_path), ids(count)
        graph.check(clients)
        assert 0 <= (spectral_gap(graph, clients) or 0.0) <= 1


def degrees(senders: Senders) -> set[int]:
    return {len(others) for others in senders.values()}


def adjacency(senders: Senders) -> np.ndarray:
    return np.array([[other in others for other in senders] for others in senders.values()])


def test_a_ring_mixes_thirds() -> None:
    assert metropolis(Ring().senders(ids(5), 1))["00"] == pytest.approx({"00": 1 / 3, "01": 1 / 3, "04": 1 / 3})


def test_a_torus_has_four_neighbours_and_is_a_ring_of_rings() -> None:
    clients = ids(12)
    assert Torus().senders(clients, 1)["05"] == {"01", "09", "04", "06"}  # 3 rows of 4
    assert Torus().senders(clients, 1)["00"] == {"08", "04", "03", "01"}
    assert Torus(rows=2).senders(clients, 1)["00"] == {"06", "01", "05"}


@pytest.mark.parametrize("graph", [RandomRegular(), RandomRegular(degree=3, seed=5), ErdosRenyi(probability=0.25)])
def test_random_graphs_are_connected_symmetric_and_drawn_by_their_seed(graph: RandomRegular | ErdosRenyi) -> None:
    clients = ids(16)
    found = graph.senders(clients, 1)
    joined = adjacency(found)
    assert (joined == joined.T).all()
    assert not joined.diagonal().any()
    assert connected_components(joined, directed=False)[0] == 1
    assert found == graph.senders(clients, 7)
    assert found != graph.model_copy(update={"seed": graph.seed + 1}).senders(clients, 1)
    if isinstance(graph, RandomRegular):
        assert degrees(found) == {graph.degree}


@pytest.mark.parametrize(("count", "exact"), [(16, True), (2, True), (12, False)])
def test_one_peer_exponential_graphs_reach_the_exact_mean_in_log_n_rounds(count: int, exact: bool) -> None:
    clients, product = ids(count), np.eye(count)
    for number in range(1, Exponential().period(count) + 1):
        senders = Exponential().senders(clients, number)
        assert degrees(senders) == {1}
        product = matrix(senders) @ product
    assert np.allclose(product, 1 / count, rtol=0, atol=1e-15) == exact
    assert Exponential().senders(clients, 1)["00"] == {clients[-1]}


def eigenvalue_gap(graph: Graph, clients: Sequence[str]) -> float:
    """1 − max(|λ₂|, |λ_n|), by another way than the norm."""
    values = np.sort(np.abs(np.linalg.eigvals(matrix(graph.senders(clients, 1)))))
    return float(1 - values[-2])


def test_spectral_gaps_are_those_of_the_eigenvalues_and_of_closed_forms() -> None:
    clients = ids(16)
    for graph in (Ring(), Torus(), RandomRegular(), ErdosRenyi()):
        assert spectral_gap(graph, clients) == pytest.approx(eigenvalue_gap(graph, clients), abs=1e-12)
    assert spectral_gap(Ring(), clients) == pytest.approx(2 / 3 * (1 - math.cos(2 * math.pi / 16)))
    assert spectral_gap(Torus(), clients) == pytest.approx(2 / 5 * (1 - math.cos(2 * math.pi / 4)))
    assert spectral_gap(Complete(), clients) == pytest.approx(1)
    assert spectral_gap(Exponential(), clients) == pytest.approx(1)


FILES: dict[str, tuple[object, str]] = {
    "not connected": (
        {"00": ["01"], "01": ["00"], "02": ["03"], "03": ["02"]},
        "the graph `file` is not connected: clients `02`, `03` and clients `00`, `01` have no path to each other",
    ),
    "not symmetric": (
        {"00": ["01", "02"], "01": ["00"], "02": ["03"], "03": ["02"]},
        "`00` lists `02`, but `02` does not list `00`",
    ),
    "unknown clients": (
        {"00": ["01", "x"], "01": ["00"], "02": ["03"], "03": ["02"], "y": ["00"]},
        "`y` is no client of this run; `fedfm data` lists them",
    ),
    "unknown neighbours": ({c: ["x"] for c in ids(4)}, "`00` lists `x`, which is no client of this run"),
    "itself": ({"00": ["00"], "01": ["00"], "02": [], "03": []}, "`00` lists itself"),
    "a client missing": ({"00": ["01"], "01": ["00"]}, "client `02` is missing"),
    "one twice": ({"00": ["01", "01"], "01": ["00"], "02": [], "03": []}, "`00` lists `01` 2 times"),
    "no lists": ({"00": "01"}, "must be an object from each client's id to the list of its neighbours' ids"),
    "numbers": ({"00": [1]}, "must be an object"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_files_graph_is_refused_with_what_is_wrong_and_where(case: str, tmp_path: Path) -> None:
    lists, reason = FILES[case]
    graph = written(tmp_path, lists)
    with pytest.raises(RecipeError) as caught:
        graph.check(ids(4))
    assert reason in str(caught.value)
    assert "protocol.graph" in str(caught.value)
    if case != "not connected":
        assert str(tmp_path / "graph.json") in str(caught.value)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    for content, reason in ((b'{"00": [', "is not a JSON file"), (b"\xff", "is not a JSON file")):
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=reason):
            FileGraph(path=str(path)).check(ids(2))
    path.write_text('{"00": ["01"], "01": ["00"], "00": ["01"]}')
    with pytest.raises(RecipeError, match="`00` is listed twice"):
        FileGraph(path=str(path)).check(ids(2))
    with pytest.raises(RecipeError, match="cannot read"):
        FileGraph(path=str(tmp_path / "absent.json")).check(ids(2))


@pytest.mark.parametrize(
    ("graph", "count", "reason"),
    [
        (Torus(), 13, "13 clients do not fill a grid with at least two rows and two columns"),
        (Torus(rows=5), 12, "12 clients do not fill a grid with 5 rows"),
        (RandomRegular(degree=3), 7, "7 clients cannot have 3 neighbours each: that needs an even number"),
        (RandomRegular(degree=4), 4, "4 clients cannot have 4 neighbours each: that needs more clients than that"),
        (ErdosRenyi(probability=0.001), 16, "raise it above log(16)/16 = 0.17"),
    ],
)
def test_graphs_that_there_are_not(graph: Graph, count: int, reason: str) -> None:
    with pytest.raises(RecipeError) as caught:
        graph.check(ids(count))
    assert reason in str(caught.value)
