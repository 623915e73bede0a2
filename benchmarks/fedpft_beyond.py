"""What could make FedPFT's proxies better, each beside FedPFT itself on strongly compressed proxies.

    python benchmarks/fedpft_beyond.py [--seeds 3] [--budget-minutes N] [--data FOLDER]

The setting is that of `fedpft.py`, with ffn_keep 0.1 and no layer whole (4.26 M of MiniLM's 10.65 M encoder parameters,
of which 3.54 M are attention), on the two sets where that costs most, IID:

- the paper's own start, distillation without the closed form;
- neurons chosen by their activation on public data, and by their gradient (the aim of GradOT, ACL 2025);
- light alignment: two steps after every round (as FedBiOT, KDD 2024) in place of ten after every fifth;
- attention that discloses less: of rank 96 of 384, or of 4 bits, before the FFNs are fitted;
- compensation at plug-in, on public data: the read-out, or its bias alone, is refitted so that the backbone answers as
  the proxy does (`readout.py`). These are other evaluations of the same runs.

Several processes may measure at once, best as many as there are cores, with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from fedfm import load_recipe, run
from fedfm.models.backbones import Backbone
from fedfm.models.families import blocks
from fedfm.proxies.fedpft import pair
from fedpft import TEST_EXAMPLES, argument_parser, outcome, read_arguments, refitted, with_fitted_proxy, write_texts
from fedpft_jobs import Job, digest, located
from fedpft_tables import MISSING, grid
from ledger import claimed, kept, mean_and_deviation, measured, measured_on

NAME = "fedpft_beyond"
DATA = ("trec6", "newsgroups20")
NO_BUT_ITS_BIAS = 1e9
"""So strong a pull lets no weight of a refitted read-out move."""


@dataclass(frozen=True)
class Variant:
    """One idea.

    Attributes:
        changes: to FedPFT's ``proxy``, as `Job.changes`.
        attention: what happens to each attention matrix of the proxy before it is fitted.
    """

    changes: tuple[tuple[str, str], ...] = ()
    attention: Callable[[Tensor], Tensor] | None = None


def of_rank(matrix: Tensor, rank: int) -> Tensor:
    """The nearest matrix of a rank."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).to(matrix.dtype)


def of_bits(matrix: Tensor, bits: int) -> Tensor:
    """Rounded to ``2^bits − 1`` levels a row, symmetric."""
    most = 2 ** (bits - 1) - 1
    step = matrix.abs().amax(1, keepdim=True) / most
    return (matrix / step).round() * step


VARIANTS = {
    "FedPFT": Variant(),
    "distillation, no closed form": Variant((("closed_form", "false"),)),
    "neurons by activation": Variant((("score", '"activation"'),)),
    "neurons by gradient": Variant((("score", '"gradient"'),)),
    "light alignment every round": Variant((("interval", "1"), ("align.steps", "2"))),
    "attention of rank 96": Variant(attention=partial(of_rank, rank=96)),
    "attention of 4 bits": Variant(attention=partial(of_bits, bits=4)),
}
COMPENSATED = {"refitted": ", read-out refitted", "bias": ", its bias alone"}


def measure(variant: str, data: str, seed: int, folder: Path, scratch: Path) -> dict[str, Any]:
    """One run, and what compensation at plug-in makes of it."""
    changed = VARIANTS[variant]
    job = Job(data, "fedpft", seed, size="harder", changes=changed.changes)
    web, test = write_texts(job, folder, scratch)
    recipe = located(job.recipe(), folder, test, web, scratch / "run")
    key = digest([job.proxy_key, variant]) if changed.attention else job.proxy_key
    with _attention(changed.attention):
        finished = run(load_recipe(with_fitted_proxy(recipe, key)))
        found = outcome(finished) | refitted(finished)
        return found | {"bias": refitted(finished, ridge=NO_BUT_ITS_BIAS)["refitted"]}


@contextmanager
def _attention(change: Callable[[Tensor], Tensor] | None) -> Iterator[None]:
    """Lets every proxy that is made have attention of its own; its FFNs are fitted to make up for what that lost."""
    if change is None:
        yield
        return
    make_proxy = pair.make_proxy

    def changed(*arguments: Any) -> Backbone:
        proxy = make_proxy(*arguments)
        for block in blocks(proxy.model, proxy.family):
            for path in block.stack.attention_matrices:
                layer = block.module.get_submodule(path)
                layer.weight = nn.Parameter(change(layer.weight.detach()), requires_grad=False)
        return proxy

    with patch.object(pair, "make_proxy", changed):
        yield


def key_of(variant: str, data: str, seed: int) -> str:
    """What is measured, and a digest of all that decides it."""
    job = Job(data, "fedpft", seed, size="harder", changes=VARIANTS[variant].changes)
    return f"{data}, {variant}, seed {seed} [{digest([job.recipe(), TEST_EXAMPLES])}]"


def table(seeds: int) -> Iterator[str]:
    """Accuracy by variant and set, and what is FedPFT's less it, paired."""
    results = kept(NAME)

    def column(variant: str, data: str, field: str) -> dict[int, float]:
        found = {seed: results.get(key_of(variant, data, seed)) for seed in range(seeds)}
        return {seed: result[field] for seed, result in found.items() if result and result.get(field) is not None}

    rows = [["", *DATA, "less FedPFT", "disclosed", "proxy's cosine"]]
    fields = {"accuracy": "", **COMPENSATED}
    lines = [(f"{variant}{title}", variant, field) for variant in VARIANTS for field, title in fields.items()]
    for title, variant, field in lines:
        columns = {data: column(variant, data, field) for data in DATA}
        base = {data: column("FedPFT", data, "accuracy") for data in DATA}
        gaps = [v - base[d][s] for d, own in columns.items() for s, v in own.items() if s in base[d]]
        cells = [mean_and_deviation(list(own.values()), 100, 1) if own else MISSING for own in columns.values()]
        gap = f"{100 * statistics.mean(gaps):+.1f} ({len(gaps)})" if gaps else MISSING
        others = [list(column(variant, DATA[0], name).values()) for name in ("disclosed", "gradient_cosine")]
        if field == "accuracy" or any(columns.values()):
            rows.append([title, *cells, gap, *(f"{statistics.mean(o):.3f}" if o else MISSING for o in others)])
    yield from grid(rows)


def main() -> None:
    """Measures what is not yet kept, for as long as it may, then prints the table."""
    options = read_arguments(argument_parser(__doc__))
    end = time.monotonic() + 60 * options.budget_minutes
    jobs = [(variant, data, seed) for data in DATA for seed in range(options.seeds) for variant in VARIANTS]
    for variant, data, seed in jobs:
        if time.monotonic() >= end:
            break
        key = key_of(variant, data, seed)
        with claimed(NAME, key) as mine, tempfile.TemporaryDirectory() as folder:
            if mine:
                print(key, flush=True)
                measured(NAME, key, partial(measure, variant, data, seed, options.data.absolute(), Path(folder)))
    print("Accuracy in %, mean ± deviation; the difference is paired by set and seed, in points (pairs)")
    print("\n".join(table(options.seeds)))
    results = kept(NAME)
    print(f"{sum(key_of(*job) in results for job in jobs)} of {len(jobs)} runs measured", end="")
    print(f", on {measured_on(NAME)}" if results else "")


if __name__ == "__main__":
    main()
