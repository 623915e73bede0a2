"""Local training."""

from fedfm.clients.evaluation import Evaluator, spread
from fedfm.clients.settings import LocalSettings
from fedfm.clients.training import GradientRule, LocalResult, train_locally
from fedfm.clients.worker import Worker

__all__ = ["Evaluator", "GradientRule", "LocalResult", "LocalSettings", "Worker", "spread", "train_locally"]
