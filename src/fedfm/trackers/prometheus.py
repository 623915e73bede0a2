"""Metrics of a run for Prometheus, served during the run; needs the extra ``track``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedfm.errors import RecipeError
from fedfm.extras import how_to_install
from fedfm.trackers.listeners import Listener


class Prometheus(Listener):
    """Serves ``/metrics`` on this machine: figures of the last round, and the number of connected sites.

    A context manager: the server ends with the block.
    """

    def __init__(self, port: int) -> None:
        """Starts the server.

        Args:
            port: a port of 127.0.0.1.

        Raises:
            RecipeError: the port is in use, or the Prometheus client is not installed.
        """
        try:
            from prometheus_client import CollectorRegistry, Gauge, start_http_server
        except ImportError as error:
            raise RecipeError(
                f"prometheus-client is not installed; {how_to_install('track')}", source="--metrics"
            ) from error
        registry = CollectorRegistry()

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"fedfm_{name}", what, labels, registry=registry)

        self._round = gauge("round", "Last completed round")
        self._rounds = gauge("rounds", "Rounds of the run")
        self._seconds = gauge("round_seconds", "Duration of the last round in seconds")
        self._left = gauge("eta_seconds", "Expected seconds until the end of the run")
        self._loss = gauge("train_loss", "Mean training loss of the last round")
        self._metrics = gauge("metric", "Latest metric of the model", "split", "metric")
        self._clients = gauge("clients", "Clients of the last round by outcome", "outcome")
        self._bytes = gauge("bytes", "Bytes of the last round", "direction")
        self._sites = gauge("sites", "Connected sites")
        try:
            self._server, self._thread = start_http_server(port, addr="127.0.0.1", registry=registry)
        except OSError as error:
            raise RecipeError(f"cannot listen at port {port}: {error.strerror}", source="--metrics") from error

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *reason: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def on_round(self, record: dict[str, Any]) -> None:
        """Sets all metrics to those of this round."""
        self._round.set(record["round"])
        self._rounds.set(record["rounds"])
        self._seconds.set(record["seconds"])
        self._left.set(record["eta_seconds"])
        if record["loss"] is not None:
            self._loss.set(record["loss"])
        for split, metrics in record["metrics"].items():
            for metric, value in metrics.items():
                self._metrics.labels(split, metric).set(value)
        for outcome, count in record["clients"].items():
            self._clients.labels(outcome).set(count)
        for direction, count in record["bytes"].items():
            self._bytes.labels(direction).set(count)

    def on_sites(self, names: Sequence[str]) -> None:
        """Sets the number of connected sites."""
        self._sites.set(len(names))
