"""The worked example of CONTRIBUTING.md is run as written."""

from __future__ import annotations

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', GUIDE, re.MULTILINE | re.DOTALL))


def _load(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Runs a file as the module ``name``; the test's end forgets it."""
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_the_example_algorithm_is_the_one_of_the_package() -> None:
    assert len(FILES) == 2
    for title, source in FILES.items():
        assert (ROOT / title).read_text(encoding="utf-8") == source


def test_the_example_algorithm_passes_its_own_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, test = (tmp_path / Path(title).name for title in FILES)
    for path, source in zip((algorithm, test), FILES.values(), strict=True):
        path.write_text(source, encoding="utf-8")
    _load(f"fedfm.algorithms.{algorithm.stem}", algorithm, monkeypatch)
    tests = [value for name, value in vars(_load(test.stem, test, monkeypatch)).items() if name.startswith("test_")]
    assert len(tests) == 2
    for run in tests:
        run()
