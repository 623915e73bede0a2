"""Which device a run computes on, and with how many threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fedfm.errors import RecipeError
from fedfm.hosts.devices import choose_device

COUNTED = """
import os, torch
from fedfm.records.environment import cpu_count
from fedfm.hosts.devices import choose_device
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
torch.set_num_threads(2)
choose_device("cpu")
print(cpu_count(), torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_no_more_threads_than_processors_that_the_process_may_use() -> None:
    found = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["1", "1"]


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match="this machine has no `cuda:99`"):
        choose_device("cuda:99")
