"""A server is started again on a run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

from fedfm.errors import RecipeError
from fedfm.recipe import dump, load_recipe
from fedfm.records.folder import RunFolder
from fedfm.server.runs import serving
from tests.server.experiment.test_deployment import NAMES, adapter, at_sites, split
from tests.small import small_recipe


def hosting(folder: Path, *names: str) -> serving.Hosting:
    keys = {name: folder / f"{name}.pub" for name in names}
    return serving.Hosting(keys, folder / "tls", port=0, folder=folder / "server", patience=0.0)


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """What there is of a run that was killed when it had written its recipe."""
    recipe = load_recipe(small_recipe(tmp_path, federation={"per_round": 3, "rounds": 2}))
    _, _, line = at_sites(tmp_path, split(tmp_path))
    monkeypatch.setattr(serving, "_line", lambda hosting, heard, waits, experiment: line)
    folder = RunFolder.create(recipe.folder)
    folder.write_text(folder.recipe, dump(serving.for_sites(recipe, len(NAMES))))
    return folder


def test_a_run_that_was_killed_before_its_sites_were_written_down_goes_on(begun: RunFolder, tmp_path: Path) -> None:
    run = serving.serve(begun.path, [], hosting(tmp_path, *NAMES))
    assert run.summary["status"] == "completed"
    straight = serving.serve(begun.recipe, ["name=straight"], hosting(tmp_path, *NAMES))
    assert adapter(run) == adapter(straight)


def test_a_run_goes_on_only_with_the_sites_that_it_began_with(begun: RunFolder, tmp_path: Path) -> None:
    serving.serve(begun.path, [], hosting(tmp_path, *NAMES))
    with pytest.raises(RecipeError, match="began with the sites a, b, c, d, e, not a, b, c, d, f"):
        serving.serve(begun.path, ["federation.rounds=3"], hosting(tmp_path, *"abcdf"))
    with pytest.raises(RecipeError, match="is finished: all 2 rounds are played; to play more, set"):
        serving.serve(begun.path, [], hosting(tmp_path, *NAMES))
