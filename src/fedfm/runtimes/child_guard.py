"""A process that does not outlive the one that started it: ``python -m fedfm.runtimes.child_guard COMMAND …``.

The process that starts it holds its standard input open. The input closes however that process ends; then the command
and all processes that it has started are killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    """Runs the command on the command line, in the process group of this process, and ends as it does."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603 - the caller chooses the command
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # the child gets it too and ends, and so does this
    signal.signal(signal.SIGINT, lambda number, frame: None)
    threading.Thread(target=_watch, daemon=True).start()
    code = child.wait()
    os._exit(code if code >= 0 else 128 - code)  # the thread still reads


def _watch() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
