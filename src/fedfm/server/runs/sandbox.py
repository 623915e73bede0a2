"""Executes programs that a model wrote, in a process that is isolated as far as the system offers it.

Each program runs in namespaces and a session of its own, in an empty folder that is removed afterwards, with limits of
time, memory, processes and sizes of files. It cannot open sockets or change files elsewhere (`sandboxed`). It can read
what its user can read. This holds back what models write by mistake; for programs written to break out, use a virtual
machine.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fedfm.errors import RecipeError
from fedfm.printable import line
from fedfm.server.runs import sandboxed
from fedfm.server.runs.bounded_process import ProgramEnd, play

_UNSHARE = ("unshare", "--user", "--net", "--pid", "--ipc", "--fork", "--kill-child", "--")
_MOST_BYTES = 65536
"""A program may print."""


@dataclass(frozen=True)
class Sandbox:
    """Limits of one program.

    Attributes:
        isolated: whether it is also kept from network and files; if not, only the limits hold.
        timeout_s: wall time, and CPU time of each of its processes.
        memory_bytes: address space of each of its processes.
        file_bytes: size of a file that it writes.
        processes: at once, threads included. Linux does not hold root to a number: as root, isolated programs start
            none.
    """

    isolated: bool = True
    timeout_s: float = 10.0
    memory_bytes: int = 2**30
    file_bytes: int = 10 * 2**20
    processes: int = 32

    def check(self) -> None:
        """Executes an empty program.

        Raises:
            RecipeError: the system does not offer the isolation; or nothing can be executed.
        """
        if (reason := self.failure("")) is None:
            return
        hint = "; --unisolated executes with limits of time and memory only, in a container of yours" * self.isolated
        raise RecipeError(f"programs cannot be isolated on this machine: {reason}{hint}", where="--execute")

    def failure(self, program: str) -> str | None:
        """Executes a program; None if it comes to its end, else why it does not, in one line."""
        token = secrets.token_hex(16)
        limits = {
            "CPU": math.ceil(self.timeout_s),
            "AS": self.memory_bytes,
            "FSIZE": self.file_bytes,
            "NPROC": self.processes,
            "NOFILE": 64,
            "CORE": 0,
        }
        alone = os.geteuid() == 0
        settings = {"limits": limits, "isolated": self.isolated, "alone": alone, "token": token}
        given = json.dumps(settings).encode() + b"\n" + program.encode("utf-8", "surrogatepass")
        source = Path(sandboxed.__file__).read_text(encoding="utf-8")
        command = [*(_UNSHARE if self.isolated else ()), sys.executable, "-I", "-B", "-c", source]
        with tempfile.TemporaryDirectory(prefix="fedfm-program-", ignore_cleanup_errors=True) as folder:
            variables = {"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1"}
            try:
                ended = play(
                    command,
                    given,
                    timeout_s=self.timeout_s,
                    most_bytes=_MOST_BYTES,
                    folder=Path(folder),
                    environment=variables,
                )
            except OSError as error:
                return f"{command[0]} cannot be started ({error.strerror})"
        return None if token.encode() in ended.stdout else _reason(ended)


def _reason(ended: ProgramEnd) -> str:
    """Why a program did not come to its end."""
    if ended.limit is not None:
        return ended.limit
    last = ended.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    if last:
        return line(last[0], most=200)
    return f"ended by signal {-ended.code}" if ended.code < 0 else f"ended itself with exit code {ended.code}"
