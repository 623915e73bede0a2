"""The virtual environments of peers whose pins clash with fedfm's: made once, each from its file in constraints/."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

CONSTRAINTS = Path(__file__).parent / "constraints"
COMMON = ("torch", "transformers", "peft", "safetensors")
PEERS = {"flower": "flwr[simulation]", "pfl": "pfl[pytorch]"}
"""Environment → what pip installs beside `COMMON`."""


def python_of(name: str, folder: Path) -> Path:
    """The interpreter of an environment, which is made where it is missing or its constraints have changed.

    Needs a package index. On Linux without a GPU, ``PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu`` saves
    gigabytes of CUDA.

    Args:
        name: one of `PEERS`.
        folder: of all environments.
    """
    here, constraints = folder / name, CONSTRAINTS / f"{name}.txt"
    python, made = here / "bin" / "python", here / "made-with.txt"
    if not made.is_file() or made.read_text() != constraints.read_text():
        print(f"installing the environment {name}", flush=True)
        venv.create(here, clear=True, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints]
        subprocess.run([*pip, PEERS[name], *COMMON], check=True)
        made.write_text(constraints.read_text())
    return python
