"""Continual, personal, multimodal, serverless and distilled federations, and several tasks at once: every table.

    python benchmarks/life.py [--only NAME …]

Each table is that of the script of its name, whose first lines say what is compared. Measurements are kept as soon as
they are there, so that it goes on where it was stopped.
"""

from __future__ import annotations

from several import play

SCRIPTS = ("continual", "personal", "gossip", "distill", "multitask", "prompts", "multimodal")

if __name__ == "__main__":
    play(__doc__, SCRIPTS)
