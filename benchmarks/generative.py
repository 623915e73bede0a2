"""Pre-training and synthetic data: every table.

    python benchmarks/generative.py [--only NAME …]

Each table is that of the script of its name, whose first lines say what is compared.
"""

from __future__ import annotations

from several import play

SCRIPTS = ("pretrain", "synthetic")

if __name__ == "__main__":
    play(__doc__, SCRIPTS)
