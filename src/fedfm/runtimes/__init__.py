"""Who carries instructions to clients and updates back."""

from fedfm.runtimes.base import Runtime
from fedfm.runtimes.local import LocalRuntime
from fedfm.runtimes.settings import RuntimeSettings

__all__ = ["LocalRuntime", "Runtime", "RuntimeSettings"]
