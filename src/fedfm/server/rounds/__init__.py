"""Rounds: driver, exchange, state and checkpoints."""
