"""The chapters of the Python Library Reference and the modules of each; some small chapters are merged."""

from __future__ import annotations

CHAPTERS: dict[str, str] = {
    "text": """
        codecs difflib gettext locale re readline rlcompleter string stringprep struct textwrap
        unicodedata
    """,
    "data types": """
        array bisect builtins calendar collections copy datetime enum graphlib heapq pprint reprlib
        types weakref zoneinfo
    """,
    "numbers": "cmath decimal fractions functools itertools math numbers operator random statistics",
    "files": """
        bz2 configparser copyreg csv dbm filecmp fileinput fnmatch glob gzip linecache lzma marshal
        netrc os.path pathlib pickle plistlib shelve shutil sqlite3 stat tarfile tempfile tomllib
        zipfile zlib
    """,
    "operating system": """
        argparse cmd ctypes curses errno fcntl getopt getpass grp io logging mmap optparse os
        platform posix pty pwd resource shlex syslog termios time tty
    """,
    "concurrency": """
        asyncio concurrent contextvars multiprocessing queue sched select selectors signal
        subprocess threading
    """,
    "internet": """
        base64 binascii email ftplib hashlib hmac http imaplib ipaddress json mailbox mimetypes
        nntplib poplib quopri secrets smtplib socket socketserver ssl telnetlib urllib uuid
        webbrowser wsgiref xmlrpc
    """,
    "markup": "html xml",
    "interface": "tkinter turtle",
    "development": """
        ast bdb compileall cProfile dis doctest ensurepip faulthandler keyword modulefinder pdb
        pickletools profile pstats py_compile pyclbr pydoc symtable tabnanny timeit token tokenize
        trace tracemalloc typing unittest venv zipapp
    """,
    "runtime": """
        abc atexit code codeop contextlib dataclasses gc importlib inspect pkgutil runpy site sys
        sysconfig traceback warnings zipimport
    """,
}
"""Modules by chapter; a submodule belongs to the chapter of the longest of these names that it begins with."""

ALIASES: dict[str, str] = {
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "_strptime": "time",
    "_thread": "threading",
    "genericpath": "os.path",
    "ntpath": "os.path",
    "posix": "os",
    "posixpath": "os.path",
}
"""Module → the module whose contents it documents."""

_CHAPTER_OF = {module: chapter for chapter, modules in CHAPTERS.items() for module in modules.split()}


def chapter_of(module: str) -> str | None:
    """The chapter of a public module such as ``email.message``; None if the table does not list it."""
    while module:
        if module in _CHAPTER_OF:
            return _CHAPTER_OF[module]
        module = module.rpartition(".")[0]
    return None


def public_name(module: str) -> str | None:
    """The public name under which a module is documented: `pathlib` for ``pathlib._local``; None for a private one."""
    first, *rest = module.split(".")
    name = ".".join([ALIASES.get(first, first), *(part for part in rest if not part.startswith("_"))])
    return None if name.startswith("_") else name
