"""Runs: start, resume, what they leave behind, and what is built on finished ones."""
