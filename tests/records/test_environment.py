"""env.json describes versions and hardware, and does not identify the machine."""

from __future__ import annotations

import getpass
import platform
import socket
from pathlib import Path

import torch

from fedfm.records import jsonl
from fedfm.records.environment import environment


def test_versions_are_those_of_the_installed_packages() -> None:
    versions = environment()["versions"]
    assert torch.__version__.startswith(versions["torch"])  # wheels from PyPI keep +cu130 out of their metadata
    assert versions["python"] == platform.python_version()
    assert {"fedfm", "transformers", "peft", "datasets"} <= set(versions)


def test_hardware_is_plausible() -> None:
    found = environment()
    assert found["cpu"]["count"] >= 1
    assert found["cpu"]["model"]
    assert found["memory_bytes"] is None or found["memory_bytes"] > 2**27
    assert found["gpus"] == [] or torch.cuda.is_available()
    assert found["threads"] == torch.get_num_threads()


def test_it_names_no_person_host_or_path() -> None:
    written = jsonl.dumps(environment())
    words = written.replace('"', " ").replace(",", " ").split()
    assert socket.gethostname() not in words
    assert getpass.getuser() not in words
    assert str(Path.home()) not in written
