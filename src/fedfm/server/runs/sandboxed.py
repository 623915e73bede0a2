"""Runs in the sandbox, alone and with the standard library only: limits this process, then executes a program in it.

Standard input has a line of JSON, the settings, and after it the program. When the program has come to its end, the
process prints ``token`` and ends with 0. A program that ends itself before does not print it.

Network: namespaces hide the machine's; a seccomp filter refuses `socket`, so that sockets in the file system are not
reached either. Files: Landlock allows writing in the working folder only. Both are kept by all children.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import struct
import sys

CANNOT = 97
"""Exit status where the system does not offer the isolation that is asked for."""

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""System calls of Landlock, on all architectures."""
_WRITE, _TRUNCATE = 1 << 1, 1 << 14
_CHANGES = _WRITE | _TRUNCATE | sum(1 << bit for bit in range(4, 14))
"""Writing, truncating, removing, making and moving of files and folders (linux/landlock.h, ABI 3)."""

_ARCHITECTURES = {
    "x86_64": (
        0xC000003E,
        (41, 425),
        (90, 91, 92, 93, 94, 132, 188, 189, 190, 197, 198, 199, 235, 260, 261, 268, 280, 452),
        (56, 57, 58, 435),
    ),
    "aarch64": (0xC00000B7, (198, 425), (5, 6, 7, 14, 15, 16, 52, 53, 54, 55, 88, 452), (220, 435)),
}
"""Machine → its number in seccomp filters, and those of system calls (linux/audit.h, asm/unistd.h): that open sockets,
io_uring included; that change owners, modes, times and attributes of files, which Landlock allows; that start processes
and threads."""
_OTHER_NUMBERS = 0x40000000
"""x86-64 has a second set of numbers from here on."""
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2


def main() -> None:
    """Limits this process, and executes the program."""
    settings = json.loads(sys.stdin.buffer.readline())
    program = sys.stdin.buffer.read()
    for name, value in settings["limits"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    if settings["isolated"]:
        try:
            _isolate(alone=settings["alone"])
        except OSError as error:
            sys.stderr.write(str(error))
            sys.exit(CANNOT)
    printed = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})  # noqa: S102 - what a sandbox is for
    os.write(printed, settings["token"].encode())
    os._exit(0)


def _isolate(*, alone: bool) -> None:
    """Refuses sockets, and changes of files outside of the working folder, from now on.

    Args:
        alone: refuse also to start processes and threads.

    Raises:
        OSError: the kernel does not offer it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError("no_new_privs is not offered by this kernel")
    _refuse_writing(libc)
    _refuse_calls(libc, alone=alone)


def _refuse_writing(libc: ctypes.CDLL) -> None:
    if libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1) < 3:
        raise OSError("Landlock (Linux 6.2 or later) is not offered by this kernel, to keep files from being changed")
    handled = struct.pack("=Q", _CHANGES)
    rules = libc.syscall(_CREATE, handled, ctypes.c_size_t(len(handled)), 0)
    for path, allowed in ((".", _CHANGES), (os.devnull, _WRITE | _TRUNCATE)):
        descriptor = os.open(path, os.O_PATH)
        rule = struct.pack("=Qi", allowed, descriptor)
        if libc.syscall(_ADD, rules, 1, rule, 0):
            raise OSError("Landlock refuses a rule")
        os.close(descriptor)
    if libc.syscall(_RESTRICT, rules, 0):
        raise OSError("Landlock cannot be turned on")
    os.close(rules)


def _refuse_calls(libc: ctypes.CDLL, *, alone: bool) -> None:
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(f"there is no filter of system calls for {machine}")
    architecture, sockets, attributes, starts = _ARCHITECTURES[machine]
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    refused = (*sockets, *attributes, *(starts if alone else ()))
    steps = [
        (load, 0, 0, 4),  # architecture
        (equal, 1, 0, architecture),
        (end, 0, 0, _KILL),
        (load, 0, 0, 0),  # number of the system call
        (at_least, len(refused) + 1, 0, _OTHER_NUMBERS),
        *((equal, len(refused) - place, 0, number) for place, number in enumerate(refused)),
        (end, 0, 0, _ALLOW),
        (end, 0, 0, _REFUSE),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    rules = struct.pack("@HP", len(steps), ctypes.addressof(code))
    if libc.prctl(_SECCOMP, _FILTER, rules, 0, 0):
        raise OSError("seccomp is not offered by this kernel, to refuse sockets")


if __name__ == "__main__":
    main()
