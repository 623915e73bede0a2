from __future__ import annotations

from pathlib import Path

import pytest

import fedfm
from fedfm.errors import RecipeError
from tests.small import small_recipe


@pytest.mark.parametrize("kind", ["flower", "ray"])
def test_a_runtime_whose_extra_is_missing_is_refused_before_anything_is_written(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedfm.server.carriers.find_spec", lambda name: None)
    recipe = fedfm.load_recipe(small_recipe(tmp_path), [f"runtime.kind={kind}"])
    with pytest.raises(RecipeError, match=rf"pip install 'fedfm\[{kind}\]'"):
        fedfm.run(recipe)
    assert not recipe.folder.exists()
