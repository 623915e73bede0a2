"""Reads data, encodes it for a model, and splits it among clients."""
