"""Sources in memory."""

from tests.data.conftest import make_source

__all__ = ["make_source"]
