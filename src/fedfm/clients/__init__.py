"""Clients: what they are asked to do, how they train, what they keep between rounds."""

from fedfm.clients.contract import Contract
from fedfm.clients.evaluation import Evaluator, spread
from fedfm.clients.profile import Profile, gemm_peak
from fedfm.clients.rules import ClientRound, LocalResult, LocalRule
from fedfm.clients.settings import LocalSettings
from fedfm.clients.stacked import Stacking, StackMember, train_stacked
from fedfm.clients.threads import use_threads
from fedfm.clients.work.train import train_locally
from fedfm.clients.worker import Worker, Workers

__all__ = [
    "ClientRound",
    "Contract",
    "Evaluator",
    "LocalResult",
    "LocalRule",
    "LocalSettings",
    "Profile",
    "StackMember",
    "Stacking",
    "Worker",
    "Workers",
    "gemm_peak",
    "spread",
    "train_locally",
    "train_stacked",
    "use_threads",
]
