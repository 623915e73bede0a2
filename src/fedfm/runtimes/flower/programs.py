"""Flower's programs as fedfm starts them: ``python -m fedfm.runtimes.flower.programs NAME …``.

Without these changes Flower accepts a run from every account that reaches its port, and imports the code that the run
carries. These programs differ from Flower's programs of the same names in three points:

- the control interface of ``flower-superlink`` requires a secret (`control_auth`);
- ``flower-superexec`` starts one kind of task, and no other account can read the task's token (`superexec`);
- ``flwr-serverapp`` and ``flwr-clientapp`` run what is installed here, whatever the run's bundle holds (`installed`).
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

MODULES = {
    "flower-superlink": "control_auth",
    "flower-supernode": "supernode_program",
    "flower-superexec": "superexec",
    "flwr-serverapp": "installed",
    "flwr-clientapp": "installed",
}
"""Name of a program → module of this folder; its function ``main`` runs the program."""


def command(name: str, *arguments: str) -> list[str]:
    """The command line that starts a program."""
    return [sys.executable, "-m", __name__, name, *arguments]


def replace(module: ModuleType, **instead: object) -> None:
    """Replaces parts of a module of Flower.

    Raises:
        RuntimeError: this version of Flower has no such part, so its behaviour is unknown.
    """
    for name, part in instead.items():
        if not hasattr(module, name):
            raise RuntimeError(f"this version of Flower has no {module.__name__}.{name}: it cannot be replaced")
        setattr(module, name, part)


def main() -> None:
    """Runs the program that the command line names."""
    del sys.argv[0]
    import_module(f"fedfm.runtimes.flower.{MODULES[sys.argv[0]]}").main()


if __name__ == "__main__":
    main()
