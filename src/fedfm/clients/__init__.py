"""Local training."""

from fedfm.clients.evaluation import Evaluator, spread
from fedfm.clients.profile import Profile, gemm_peak
from fedfm.clients.settings import LocalSettings
from fedfm.clients.stacked import Stacking, StackMember, train_stacked
from fedfm.clients.threads import use_threads
from fedfm.clients.training import GradientRule, LocalResult, train_locally
from fedfm.clients.worker import Worker

__all__ = [
    "Evaluator",
    "GradientRule",
    "LocalResult",
    "LocalSettings",
    "Profile",
    "StackMember",
    "Stacking",
    "Worker",
    "gemm_peak",
    "spread",
    "train_locally",
    "train_stacked",
    "use_threads",
]
