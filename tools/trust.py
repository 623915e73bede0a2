"""The list of what a federation must withstand in `docs/security.md`, each entry with the tests that hold it.

python -m tools.trust      # writes it; `make schema` does it

A test says in its name which entries it holds: ``test_t06_…``, ``test_t09_t12_…``. These tests have the marker
``trust``, and `make test-trust` runs them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "security.md"

BEGIN, END = "<!-- written by tools/trust.py -->", "<!-- end -->"

BEHAVIOURS = {
    "T01": "a client that fails in a round counts as one that was not asked; the reason is recorded",
    "T02": "a client's process that is killed fails its clients, and nobody else's",
    "T03": "a client that is too slow is not waited for beyond the deadline, and its late answer is refused",
    "T04": "too few clients end the run with exit code 4; the last checkpoint is whole and the run can be resumed",
    "T05": "a run killed at any point and resumed equals one that never stopped, bit for bit",
    "T06": "a full disk ends the run with exit code 5, names the path and keeps the checkpoint before",
    "T07": "a truncated or changed checkpoint is noticed, and the one before is used",
    "T08": "Ctrl-C saves and says how to resume; a second one ends at once",
    "T09": "an update with a value that is not finite is refused before anything is computed from it",
    "T10": "an update with another shape, type or set of tensors is refused, also where it could be broadcast",
    "T11": "a minority of hostile clients cannot move a robust rule, or a clipped mean, beyond a bound",
    "T12": "impossible numbers of examples, steps or samples are refused",
    "T13": "a second answer, or one of an earlier round, is refused",
    "T14": "an update computed on another model is refused",
    "T15": "a node without a known key, or without TLS, gets nothing",
    "T16": "one key admits one site, once",
    "T17": "a message that is too large is refused before memory is taken for it",
    "T18": "the order in which answers come changes no bit",
    "T19": "a client out of memory is a failed client, with what to change; the run goes on",
    "T20": "under privacy the denominator is fixed, whoever answers",
    "T21": "under privacy an empty cohort releases noise, and is charged",
    "T22": "under privacy a release is charged before its noise is drawn; one that is repeated is charged again",
    "T23": "a run ends before the round that would exceed its privacy budget, with exit code 6",
    "T24": "two processes do not use one run's folder",
    "B01": "all misspelt keys are listed at once, each with the key that was meant",
    "B02": "words and numbers of a recipe mean what they look like, whatever YAML 1.1 makes of them",
    "B03": "a missing column, or one of the wrong type, is named with the file before anything is trained",
    "B04": "a client without examples is named or left out; one with one example, or one class, takes part",
    "B05": "a label that is not one of the classes is named with its row",
    "B06": "malformed files, encodings and NUL bytes are named with file and line",
    "B07": "huge files and endless lines take little memory, and texts that are cut are counted",
    "B08": "data and methods that cannot be kept or sent to other processes are refused by name",
    "B09": "models without padding, with tied weights, without the named modules or with smaller matrices",
    "B10": "a model or data set that is not on this machine: one sentence that says how to get it",
    "B11": "clients twice, more clients in a round than there are, a δ that protects nobody",
    "B12": "a run's folder that exists, cannot be written, or has spaces and accents in its name",
    "B13": "what cannot be combined is refused when the recipe is read, with the reason",
    "S01": "nothing is unpickled, and no data becomes code",
    "S02": "code of a model's repository is never run",
    "S03": "no network unless the recipe allows it",
    "S04": "files of a checkpoint are those that its manifest names, by sha256",
    "S05": "dependencies are pinned, and `make audit` compares them with known vulnerabilities",
    "S06": "names of clients are neither paths nor markup",
    "S07": "pinned versions lie within the supported ranges of all requirements",
    "P1": "one client moves a private mean by its bound at most",
    "P2": "a gradient that is not divided by examples is noticed before it is used",
    "P3": "private steps equal DP-SGD computed one example at a time, and by opacus",
    "P4": "noise has the deviation and the shape of a Gaussian, and no seed",
    "P5": "ε and z agree with published values and closed forms",
    "P6": "updates that are zero, huge or not finite keep the bound",
    "P7": "the ledger is read as it was written, and survives a killed run",
    "P8": "planted canaries are exposed where there is no noise, and not where there is",
}
"""Id → what must hold."""

_IDS = re.compile(r"test_((?:(?:[tbs]\d\d|p\d)_)+)")


def ids_of(name: str) -> list[str]:
    """The entries that a test of this name holds."""
    found = _IDS.match(name)
    return [each.upper() for each in found[1].split("_")[:-1]] if found else []


def holders() -> dict[str, list[str]]:
    """Id → tests, as FILE::NAME below ``tests/``, without parameters."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for each in ids_of(node.name):
                    found.setdefault(each, []).append(f"{path.relative_to(ROOT / 'tests')}::{node.name}")
    return found


def written(page: str) -> str:
    """A page with the list between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + "\n".join([f"{BEGIN}\n", *_lines(), f"\n{END}"]) + after


def _lines() -> Iterator[str]:
    tests = holders()
    yield "| id | what holds | tests |"
    yield "|---|---|---|"
    for each, behaviour in BEHAVIOURS.items():
        files = dict.fromkeys(test.partition("::")[0] for test in tests.get(each, []))
        yield f"| {each} | {behaviour} | {', '.join(f'`tests/{file}`' for file in files)} |"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
