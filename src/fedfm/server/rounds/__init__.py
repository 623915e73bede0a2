"""Rounds: driver, exchange, intake, state and checkpoints."""
