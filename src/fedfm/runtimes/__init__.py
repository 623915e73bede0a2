"""Who carries instructions to clients and updates back."""

from fedfm.runtimes.base import Runtime
from fedfm.runtimes.local import LocalRuntime
from fedfm.runtimes.processes import ProcessRuntime, can_fork
from fedfm.runtimes.settings import RuntimeSettings

__all__ = ["LocalRuntime", "ProcessRuntime", "Runtime", "RuntimeSettings", "can_fork"]
