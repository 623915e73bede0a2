"""A SuperExec that starts one kind of task, with the program that is installed here.

Flower's own SuperExec starts every kind of task, and puts the token that identifies the task on the command line, where
every account of the machine can read it. Here the token goes through a pipe.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, SubprocessExecutor

from fedfm.runtimes.flower.programs import command, replace


class InstalledExecutor(SubprocessExecutor):
    """Starts tasks of one kind, each as a process that ends with this one."""

    def __init__(self, kind: TaskType, socket: str) -> None:
        """An executor.

        Args:
            kind: of the tasks that are started; other tasks fail.
            socket: path of the socket that tasks carry envelopes to or from.
        """
        self._kind = kind
        self._socket = socket
        self._started: list[subprocess.Popen[bytes]] = []

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Starts the process of a task, unless the task is of another kind or its token would be sent without TLS."""
        if spec.task_type != self._kind:
            return LaunchResult.failed(f"{spec.task_type} is not run here, only {self._kind}")
        if spec.root_certificates_path is None:
            return LaunchResult.failed("the Runtime API has no certificate to verify it with")
        process = subprocess.Popen(  # noqa: S603 - our own program
            command(
                self._kind.value, self._socket, "--token-stdin", "--parent-pid", str(spec.parent_pid),
                "--runtime-api-address", spec.runtime_api_address, "--root-certificates", spec.root_certificates_path,
            ),
            stdin=subprocess.PIPE,
        )  # fmt: skip
        self._started.append(process)
        try:
            with process.stdin:  # type: ignore[union-attr]  # it is a pipe
                process.stdin.write(f"{spec.token}\n".encode())  # type: ignore[union-attr]
        except BrokenPipeError:
            return LaunchResult.failed("the process of the task ended before it read its token")
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Forgets processes that have ended."""
        self._started = [process for process in self._started if process.poll() is None]


def main() -> None:
    """Runs as ``flower-superexec KIND SOCKET …``."""
    kind, socket = TaskType(sys.argv[1]), sys.argv[2]
    del sys.argv[1:3]
    replace(run_superexec, get_executor=lambda *given, **named: InstalledExecutor(kind, socket))
    import_module("flwr.supercore.cli.flower_superexec").flower_superexec()
