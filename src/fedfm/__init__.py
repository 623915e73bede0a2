"""fedfm: adapt a foundation model to data that cannot be brought together."""

__version__ = "0.1.0"
