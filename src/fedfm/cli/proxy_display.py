"""How proxies are shown on the terminal: what one would cost beside the backbone, and what was built."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedfm.records import units

Record = dict[str, Any]

PROBED = {
    "gradient cosine": "gradient_cosine",
    "relative gradient error": "gradient_error",
    "relative error of outputs": "hidden_error",
}
"""Rows of the probes, and the keys of their figures."""


def describe_proxy(found: Record) -> RenderableType:
    """What clients may hold, side by side: the backbone, its proxy, and proxies of other kinds of the same size."""
    holders: Record = {name: found[name] for name in found["holders"] if found[name] is not None}
    backbone = found["backbone"]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    table.add_column("")
    for holder in holders.values():
        table.add_column(holder["title"], justify="right")
    example = f"{found['tokens']} tokens"
    rows = {
        "layers": [_layers(holder) for holder in holders.values()],
        "parameters of all layers": [_part(holder, backbone, "blocks") for holder in holders.values()],
        "parameters in all": [_part(holder, backbone, "total") for holder in holders.values()],
        f"forward pass of {example}": [f"{holder['flops'] / 1e9:,.2f} GFLOP" for holder in holders.values()],
        f"memory of a step of {found['batch_size']} × {example}": [
            units.size(holder["training_memory"]) for holder in holders.values()
        ],
        "first download": [units.size(holder["first_download"]) for holder in holders.values()],
        "backbone's layers disclosed, at most": [units.share(holder["disclosed"], 1) for holder in holders.values()],
    }
    for name, cells in (rows | _describe_probes(holders)).items():
        table.add_row(Text(name, style="dim"), *cells)
    kept = units.share(found["settings"]["ffn_keep"], 1)
    lines: list[RenderableType] = [
        Text(f"{found['model']} ({found['family']}), {kept} of the neurons of all but {_whole(found)}", style="bold"),
        Text(),
        table,
        Text(),
        Text("memory: weights, activations, gradients and optimiser of LoRA; estimated from below", style="dim"),
        Text(
            "disclosed: parameters that a proxy has unchanged or nearly so; fitting can only lower the share",
            style="dim",
        ),
    ]
    if not found["public"]:
        lines.append(Text("--public DATA also compares gradients with the backbone's", style="dim"))
    return Group(*lines)


def _whole(found: Record) -> str:
    layers = found["settings"]["keep_layers"]
    return f"layers {', '.join(map(str, layers))}" if layers else "no layer"


def _layers(holder: Record) -> str:
    return f"{holder['layers']}, {holder['cut']} cut" if holder["cut"] else f"{holder['layers']}"


def _part(holder: Record, backbone: Record, key: str) -> str:
    """A count, and its share of the backbone's count."""
    count = units.number(holder[key])
    return count if holder is backbone else f"{units.share(holder[key], backbone[key])}  {count}"


def _describe_probes(holders: Record) -> dict[str, list[str]]:
    """Rows of the probes; none where nothing was probed."""
    probes = [holder["probe"] or {} for holder in holders.values()]
    return {
        name: [units.metric(key, probe.get(key)) for probe in probes] for name, key in PROBED.items() if any(probes)
    }


def describe_built(built: Record) -> RenderableType:
    """What was built: its size, and how its gradient compares with the backbone's after each stage."""
    sizes = built["parameters"]
    part = units.share(sizes["blocks"], sizes["backbone_blocks"])
    rows = {
        "parameters of all layers": f"{units.number(sizes['blocks'])}, {part} of the backbone's",
        "parameters in all": units.number(sizes["total"]),
        "first download": units.size(built["first_download"]),
        "backbone's layers disclosed": units.share(built["disclosed"], 1),
        "time": units.duration(built["seconds"]),
    }
    for probe in built["probes"]:
        if "gradient_cosine" in probe:
            cosine, error = (units.metric(key, probe[key]) for key in ("gradient_cosine", "gradient_error"))
            rows[f"gradient, {probe['stage'].replace('-', ' ')}"] = f"cosine {cosine}, relative error {error}"
    table = Table.grid(padding=(0, 2))
    for name, fact in rows.items():
        table.add_row(Text(name, style="dim"), Text(fact))
    return Group(Text(f"{built['path']} is written", style="bold"), table)
