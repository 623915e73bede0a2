"""How a site's data.yaml changes a server's recipe, and the errors for one that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfm.errors import DataError, RecipeError
from fedfm.hosts.training_data import processor_of
from fedfm.recipe import Recipe, load_recipe
from fedfm.server.runs.serving import for_sites
from fedfm.sites.policy import Policy
from fedfm.sites.site_config import SiteData, at_site, read_settings, read_site, read_site_data
from tests.small import small_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    changes = {"federation": {"rounds": 2}, "allow_network": True}
    return for_sites(load_recipe(small_recipe(tmp_path, **changes), ["data.labels=[bad, good]"]), 2)


def data_yaml(folder: Path, text: str) -> Path:
    path = folder / "data.yaml"
    path.write_text(text)
    return path


def test_paths_start_where_the_file_is(tmp_path: Path) -> None:
    own = read_site_data(data_yaml(tmp_path, "train: rows.csv\nmodel: models/minilm\n"))
    assert own.train == str(tmp_path / "rows.csv")
    assert own.model == str(tmp_path / "models" / "minilm")
    assert read_site_data(data_yaml(tmp_path, "train: builtin:digits")).train == "builtin:digits"


def test_a_site_has_several_files_written_in_its_own_way(recipe: Recipe, tmp_path: Path) -> None:
    for name in ("may", "june"):
        (tmp_path / f"{name}.csv").write_text(f"letter;finding\n{name}, good;001\n{name}, bad;1\n", encoding="cp1252")
    settings = (
        "csv: {delimiter: ';', encoding: cp1252}\ntext: letter\nlabel: finding\nlabels: {'001': good, '1': bad}\n"
    )
    for train in ("'*.csv'", "[june.csv, may.csv]"):
        own = read_site_data(data_yaml(tmp_path, f"train: {train}\n{settings}"))
        data = read_site(at_site(recipe, own, allow_network=False), own, "clinic", processor_of(recipe))
        assert data.train.labels is not None
        assert data.train.labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("", "train", "required"),
        ("train: a.csv\ncsv: {delimiter: ab}", "csv.delimiter", "one character"),
        ("trian: rows.csv", "trian", "train"),
        ("train: 3", "train", "must be text"),
        ("train: rows.csv\ndevice: tpu", "device", "tpu"),
    ],
)
def test_a_faulty_file_is_explained(tmp_path: Path, text: str, where: str, reason: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_site_data(data_yaml(tmp_path, text))
    assert str(tmp_path / "data.yaml") in str(caught.value)
    assert any(problem.where == where for problem in caught.value.problems)
    assert reason in str(caught.value)


@pytest.mark.parametrize(("text", "reason"), [("a: [", "data.yaml:"), ("- a", "`key: value` lines")])
def test_what_is_no_settings_file_is_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        read_settings(data_yaml(tmp_path, text), Policy)
    with pytest.raises(RecipeError, match=r"gone\.yaml"):
        read_settings(tmp_path / "gone.yaml", Policy)


def test_a_recipe_takes_the_names_that_the_site_has(recipe: Recipe) -> None:
    own = SiteData(train="rows.csv", text=["review"], label="stars", model="here", device="cpu")
    there = at_site(recipe, own, allow_network=False)
    assert (there.data.train, there.data.text, there.data.label) == ("rows.csv", ["review"], "stars")
    assert (there.model.path, there.runtime.device, there.runtime.stack) == ("here", "cpu", 1)
    assert not there.allow_network
    assert at_site(recipe, SiteData(train="rows.csv"), allow_network=True).allow_network
    assert at_site(recipe, SiteData(train="rows.csv"), allow_network=True).data.text == recipe.data.text


def test_columns_and_classes_that_do_not_fit_are_all_named(recipe: Recipe) -> None:
    own = SiteData(train="rows.csv", text=["question", "answer"], labels={"1": "fine"})
    with pytest.raises(RecipeError) as caught:
        at_site(recipe, own, allow_network=False)
    assert [problem.where for problem in caught.value.problems] == ["data.text", "data.label"]
    assert "bad, good" in str(caught.value)


def test_its_classes_are_the_servers(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nwell,1\nill,0\nso so,good\n")
    own = SiteData(train=str(tmp_path / "rows.csv"), labels={"1": "good", "0": "bad"})
    data = read_site(at_site(recipe, own, allow_network=False), own, "clinic", processor_of(recipe))
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [1, 0, 1]
    assert data.federation.sizes == {"clinic": 3}
    other = SiteData(train=own.train)
    with pytest.raises(DataError, match=r"'1' in row 1, which is not one of the classes: bad, good"):
        read_site(at_site(recipe, other, allow_network=False), other, "clinic", processor_of(recipe))


@pytest.mark.parametrize("path", ["/etc", "~/models/minilm", "models", "../there", "owner/../../etc"])
def test_a_server_does_not_choose_among_the_sites_files(recipe: Recipe, path: str) -> None:
    there = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": path})})
    with pytest.raises(RecipeError, match="set `model` to its folder at this site"):
        at_site(there, SiteData(train="rows.csv"), allow_network=False)
    assert at_site(there, SiteData(train="rows.csv", model="/m"), allow_network=False).model.path == "/m"


@pytest.mark.parametrize("path", ["builtin:minilm", "sentence-transformers/all-MiniLM-L6-v2"])
def test_what_means_the_same_everywhere_is_taken(recipe: Recipe, path: str) -> None:
    there = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": path})})
    assert at_site(there, SiteData(train="rows.csv"), allow_network=False).model.path == path


def test_a_folder_of_the_site_that_a_hub_id_names_is_not_taken(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": "secret/model"})})
    assert at_site(there, SiteData(train="rows.csv"), allow_network=False).model.path == "secret/model"
    (tmp_path / "secret" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="also a folder at this site"):
        at_site(there, SiteData(train="rows.csv"), allow_network=False)


@pytest.mark.parametrize(
    ("own", "steps"),
    [({}, 3), ({"batch_size": 100}, 3), ({"batch_size": 2}, 6), ({"max_steps": 2}, 2), ({"max_steps": 9}, 3)],
)
def test_a_small_machine_does_less_than_the_recipe_asks_never_more(
    recipe: Recipe, tmp_path: Path, own: dict[str, int], steps: int
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "well,good\nill,bad\n" * 6)
    here = SiteData.model_validate({"train": str(tmp_path / "rows.csv"), **own})
    data = read_site(at_site(recipe, here, allow_network=False), here, "clinic", processor_of(recipe))
    assert data.recipe.local.steps(len(data.train)) == steps


def test_a_site_names_its_own_columns_of_conversations(tmp_path: Path) -> None:
    changes = {"model": {"path": "builtin:tiny-llama"}, "task": {"kind": "instruct"}, "federation": {"rounds": 2}}
    recipe = for_sites(load_recipe(small_recipe(tmp_path, **changes)), 2)
    (tmp_path / "asked.csv").write_text("frage,antwort\nWho?,Me\nWhy?,\n", encoding="utf-8")
    text = "train: asked.csv\nconversation: {prompt: frage, response: antwort}\n"
    own = read_site_data(data_yaml(tmp_path, text))
    data = read_site(at_site(recipe, own, allow_network=False), own, "clinic", processor_of(recipe))
    assert len(data.train) == 1
    assert "1 of 2 examples have no response" in data.train.notes[0]
