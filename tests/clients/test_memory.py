"""Free memory of a process: kept for the next step, or returned to the system."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from fedfm.clients import memory
from tests.started import finish


def print_new_pages(choice: str) -> None:
    """Prints how many pages of memory ten steps touch first, after three that came before."""
    getattr(memory, choice)()

    def step() -> None:
        [torch.ones(5_000_000) for _ in range(4)]

    for _ in range(3):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def new_pages(choice: str) -> int:
    return int(finish(print_new_pages, choice).output)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone can be told")
def test_a_step_lies_where_the_last_one_was_or_takes_new_memory() -> None:
    assert 20 * new_pages("keep_for_reuse") < new_pages("give_back_at_once")
