"""The device and the number of threads of a run."""

from __future__ import annotations

import os

import pytest
import torch

from fedfm.errors import RecipeError
from fedfm.hosts.devices import choose_device
from fedfm.records.environment import cpu_count
from tests.started import finish


def print_threads_on_one_processor() -> None:
    """Prints processors and threads where the process may use one processor."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(2)
    choose_device("cpu")
    print(cpu_count(), torch.get_num_threads())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_no_more_threads_than_processors_that_the_process_may_use() -> None:
    assert finish(print_threads_on_one_processor).output.split() == ["1", "1"]


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match="this machine has no `cuda:99`"):
        choose_device("cuda:99")
