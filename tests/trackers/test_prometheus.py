"""Metrics for Prometheus over HTTP, read by its own parser."""

from __future__ import annotations

import socket
import sys
import urllib.request
from typing import Any

import pytest

from fedfm.errors import RecipeError
from fedfm.trackers.prometheus import Prometheus

RECORD: dict[str, Any] = {
    "round": 2,
    "rounds": 3,
    "loss": 0.5,
    "metrics": {"test": {"accuracy": 0.75}},
    "clients": {"ok": 9, "failed": 1, "refused": 0},
    "bytes": {"down": 100, "up": 90},
    "seconds": 1.5,
    "eta_seconds": 2.0,
}


def read(port: int) -> dict[str, float]:
    parser = pytest.importorskip("prometheus_client.parser")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_the_last_round_is_what_it_serves(free_port: int) -> None:
    pytest.importorskip("prometheus_client")
    with Prometheus(free_port) as listener:
        listener.on_sites(["clinic", "ward"])
        listener.on_round(RECORD)
        listener.on_round(RECORD | {"round": 3, "loss": None, "metrics": {}})
        assert read(free_port) == {
            "fedfm_round": 3,
            "fedfm_rounds": 3,
            "fedfm_round_seconds": 1.5,
            "fedfm_eta_seconds": 2,
            "fedfm_train_loss": 0.5,
            "fedfm_metric/accuracy/test": 0.75,
            "fedfm_clients/ok": 9,
            "fedfm_clients/failed": 1,
            "fedfm_clients/refused": 0,
            "fedfm_bytes/down": 100,
            "fedfm_bytes/up": 90,
            "fedfm_sites": 2,
        }
        with pytest.raises(RecipeError, match=f"cannot listen at port {free_port}"):
            Prometheus(free_port)
    with Prometheus(free_port):  # it has let go of the port
        pass


def test_where_it_is_not_installed_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(RecipeError, match=r"make install EXTRAS=track"):
        Prometheus(1)
