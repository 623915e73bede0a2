"""Runtimes: they carry requests to clients and replies back."""
