"""What could make FedPFT's proxies better, each beside FedPFT itself on strongly compressed proxies.

    python benchmarks/fedpft_beyond.py [--seeds 3] [--budget-minutes N] [--data FOLDER]

The setting is that of `fedpft.py`, with ffn_keep 0.1 and no layer whole (4.26 M of MiniLM's 10.65 M encoder parameters,
of which 3.54 M are attention), on the two sets where that costs most, IID:

- the paper's own start, distillation without the closed form;
- neurons chosen by their activation on public data, and by their gradient (the aim of GradOT, ACL 2025);
- light alignment: two steps after every round (as FedBiOT, KDD 2024) in place of ten after every fifth;
- attention that discloses less: of rank 96 of 384, or of 4 bits, before the FFNs are fitted;
- compensation at plug-in, on public data: the classifier's bias, or the classifier, is set so that the backbone answers
  as the proxy does. These two are other evaluations of FedPFT's own runs.

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

from fedfm import Run, load_recipe, run
from fedfm.models.backbones import Backbone
from fedfm.models.families import blocks
from fedfm.models.tunable import Tunable
from fedfm.proxies import model
from fedfm.records.folder import RunFolder
from fedfm.server.checkpoints import load_checkpoint
from fedfm.server.experiment import Experiment, build_experiment
from fedpft import TEST_EXAMPLES, argument_parser, outcome, read_arguments, with_fitted_proxy, write_texts
from fedpft_jobs import Job, digest, located
from fedpft_tables import MISSING, grid
from ledger import claimed, kept, mean_and_deviation, measured, measured_on

NAME = "fedpft_beyond"
DATA = ("trec6", "newsgroups20")
PUBLIC_BATCHES = 32
"""Of 16 public examples, by which what is plugged in is compensated."""
RIDGE = 0.1
"""Pull of a refitted classifier towards the tuned one, of the features' mean square."""


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
COMPENSATED = {"bias": "bias compensated at plug-in", "classifier": "classifier refitted at plug-in"}


def measure(variant: str, data: str, seed: int, folder: Path, scratch: Path) -> dict[str, Any]:
    """One run, and of FedPFT's own also what compensation makes of it."""
    changed = VARIANTS[variant]
    job = Job(data, "fedpft", seed, size="harder", changes=changed.changes)
    web, test = write_texts(job, folder, scratch)
    recipe = located(job.recipe(), folder, test, web, scratch / "run")
    key = digest([job.proxy_key, variant]) if changed.attention else job.proxy_key
    with _attention(changed.attention):
        finished = run(load_recipe(with_fitted_proxy(recipe, key)))
    return outcome(finished) | (compensated(finished) if variant == "FedPFT" else {})


@contextmanager
def _attention(change: Callable[[Tensor], Tensor] | None) -> Iterator[None]:
    """Lets every proxy that is made have attention of its own; its FFNs are fitted to make up for what that lost."""
    if change is None:
        yield
        return
    make_proxy = model.make_proxy

    def changed(*arguments: Any) -> Backbone:
        proxy = make_proxy(*arguments)
        for block in blocks(proxy.model, proxy.family):
            for path in block.stack.attention_matrices:
                layer = block.module.get_submodule(path)
                layer.weight = nn.Parameter(change(layer.weight.detach()), requires_grad=False)
        return proxy

    with patch.object(model, "make_proxy", changed):
        yield


def _proxy(experiment: Experiment) -> Any:
    if experiment.proxy is None:
        raise RuntimeError("the recipe has no proxy")
    return experiment.proxy


@torch.no_grad()
def compensated(finished: Run) -> dict[str, float]:
    """Accuracy of the backbone when its classifier makes up for how its features differ from the proxy's."""
    experiment = build_experiment(load_recipe(RunFolder(finished.path).recipe))
    checkpoint = load_checkpoint(RunFolder(finished.path))
    proxy = _proxy(experiment)
    if checkpoint is None or checkpoint.state.proxy is None or proxy.public is None:
        raise RuntimeError(f"{finished} has no proxy")
    proxy.load(checkpoint.state.proxy)
    experiment.tunable.write(proxy.plug_in.to_backbone(checkpoint.state.params))
    proxy.proxy.write(checkpoint.state.params)
    batches = proxy.public.fixed(16, PUBLIC_BATCHES, seed=0, purpose="compensation")
    ours = torch.cat([_features(experiment.tunable, batch) for batch in batches]).double()
    theirs = torch.cat([_features(proxy.proxy, batch) for batch in batches]).double()
    (weight,) = (p for name, p in experiment.tunable.parameters.items() if name.endswith("classifier.weight"))
    (bias,) = (p for name, p in experiment.tunable.parameters.items() if name.endswith("classifier.bias"))
    tuned_weight, tuned_bias = weight.double(), bias.double()
    found = {}
    bias.copy_(tuned_bias + tuned_weight @ (theirs - ours).mean(0))
    found["bias"] = experiment.evaluator(experiment.data.test)["accuracy"]
    centred = ours - ours.mean(0)
    residual = (theirs - theirs.mean(0) - centred) @ tuned_weight.T
    gram = centred.T @ centred
    gram.diagonal().add_(RIDGE * gram.trace() / len(gram))
    change = torch.linalg.solve(gram, centred.T @ residual).T
    weight.copy_(tuned_weight + change)
    bias.copy_(tuned_bias + tuned_weight @ (theirs - ours).mean(0) - change @ ours.mean(0))
    found["classifier"] = experiment.evaluator(experiment.data.test)["accuracy"]
    return found


def _features(tunable: Tunable, batch: dict[str, Tensor]) -> Tensor:
    """What goes into the classifier, ``[B, d]``."""
    seen: list[Tensor] = []
    (head,) = (module for name, module in tunable.base_model.named_modules() if name == "classifier")
    handle = head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        tunable.eval()
        tunable.model(**batch)
    finally:
        handle.remove()
    return seen[0]


def key_of(variant: str, data: str, seed: int) -> str:
    """What is measured, and a digest of all that decides it."""
    job = Job(data, "fedpft", seed, size="harder", changes=VARIANTS[variant].changes)
    return f"{data}, {variant}, seed {seed} [{digest([job.recipe(), TEST_EXAMPLES, PUBLIC_BATCHES, RIDGE])}]"


def table(seeds: int) -> Iterator[str]:
    """Accuracy by variant and set, and what is FedPFT's less it, paired."""
    results = kept(NAME)

    def column(variant: str, data: str, field: str) -> dict[int, float]:
        found = {seed: results.get(key_of(variant, data, seed)) for seed in range(seeds)}
        return {seed: result[field] for seed, result in found.items() if result and result.get(field) is not None}

    rows = [["", *DATA, "less FedPFT", "disclosed", "proxy's cosine"]]
    lines = [(name, name, "accuracy") for name in VARIANTS]
    lines += [(title, "FedPFT", field) for field, title in COMPENSATED.items()]
    for title, variant, field in lines:
        columns = {data: column(variant, data, field) for data in DATA}
        base = {data: column("FedPFT", data, "accuracy") for data in DATA}
        gaps = [v - base[d][s] for d, own in columns.items() for s, v in own.items() if s in base[d]]
        cells = [mean_and_deviation(list(own.values()), 100, 1) if own else MISSING for own in columns.values()]
        gap = f"{100 * statistics.mean(gaps):+.1f} ({len(gaps)})" if gaps else MISSING
        others = [list(column(variant, DATA[0], name).values()) for name in ("disclosed", "gradient_cosine")]
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
