"""The round loop and everything it needs at the server."""

from fedfm.server.inference import evaluate, predict
from fedfm.server.outcome import export
from fedfm.server.planning import client_table, plan
from fedfm.server.runs import Run, resume, run

__all__ = ["Run", "client_table", "evaluate", "export", "plan", "predict", "resume", "run"]
