"""Methods from outside of fedfm run, resume and report: an object given to `run`, and a package with an entry point."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from torch import Tensor

import fedfm
from fedfm import FedfmError, registry
from fedfm.algorithms import Aggregate, Algorithm, At, FedAvg, ServerState
from fedfm.errors import RecipeError
from fedfm.params import Params, map_params
from fedfm.recipe import commented, load_keys, load_recipe
from fedfm.report.page import write_report
from fedfm.yaml_text import parse
from tests.small import small_recipe

SHORT = {"clients": 3, "per_round": 2, "rounds": 2}


class HalfStep(Algorithm):
    """A server that takes a share of each step, and clients that shrink their gradients."""

    name: Literal["half-step"] = "half-step"
    """A server that takes a share of each step."""
    step: Annotated[float, Field(gt=0)] = 0.5
    """Share of the aggregate that the server takes."""

    def gradient(self, gradient: Tensor, parameter: Tensor, at: At) -> Tensor:
        return gradient * 0.9

    def server_step(self, params: Params, aggregate: Aggregate, state: ServerState) -> tuple[Params, ServerState]:
        return map_params(lambda w, delta: w + self.step * delta, params, aggregate.update), state


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test makes known is known to that test alone."""
    monkeypatch.setattr(registry, "_GIVEN", {})


def quick_recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    return small_recipe(folder, **{"federation": SHORT, **changes})


def digest(run: fedfm.Run) -> str:
    """The parameters that a run delivered."""
    (adapter,) = run.folder.adapter.glob("adapter_model.safetensors")
    return adapter.read_bytes().hex()


@pytest.mark.parametrize("processes", [1, 2])
def test_b08_an_object_runs_resumes_and_reports(tmp_path: Path, processes: int) -> None:
    recipe = quick_recipe(tmp_path, runtime={"kind": "local", "processes": processes, "stack": "off"})
    whole = fedfm.run(recipe, ["name=whole", "federation.rounds=3"], algorithm=HalfStep(step=0.25))
    assert parse(whole.folder.recipe.read_text())["algorithm"] == {
        "name": "half-step",
        "class": f"{__name__}:HalfStep",
        "step": 0.25,
    }
    plain = fedfm.run(recipe, ["name=plain", "federation.rounds=3"])
    assert digest(whole) != digest(plain)
    short = fedfm.run(recipe, ["name=short"], algorithm=HalfStep(step=0.25))
    registry._GIVEN.clear()  # another process
    with pytest.raises(
        RecipeError, match=r"`half-step` is a class from outside.*pass an object of it to fedfm\.resume"
    ):
        fedfm.resume(short.path, ["federation.rounds=3"])
    with pytest.raises(RecipeError, match=r"algorithm\.step: 0\.25 → 0\.5"):
        fedfm.resume(short.path, ["federation.rounds=3"], algorithm=HalfStep())
    resumed = fedfm.resume(short.path, ["federation.rounds=3"], algorithm=HalfStep(step=0.25))
    if processes == 1:
        registry._GIVEN.clear()
        write_report(resumed.path)  # needs no class
    assert "half-step" in (resumed.path / "report.html").read_text()


PACKAGE = '''
from typing import Literal
from fedfm.algorithms import Algorithm
from fedfm.params import map_params


class Third(Algorithm):
    """Takes a third of each step."""

    name: Literal["{name}"] = "{name}"
    """Takes a third of each step."""
    share: float = 0.33
    """Share of each step that is taken."""

    def server_step(self, params, aggregate, state):
        return map_params(lambda w, delta: w + self.share * delta, params, aggregate.update), state
'''


def install(site: Path, name: str, *, module: str = "outside", group: str = "fedfm.algorithms") -> None:
    """A package with an entry point, as pip would leave it."""
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:Third\n")
    (site / f"{module}.py").write_text(PACKAGE.replace("{name}", name))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for packages, on the interpreter's path."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    for module in ("outside", "twin"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path / "site"


def test_an_installed_package_runs_resumes_and_reports(tmp_path: Path, site: Path) -> None:
    install(site, "third")
    path = tmp_path / "recipe.yaml"
    path.write_text(repr(quick_recipe(tmp_path) | {"algorithm": {"name": "third", "share": 0.2}}).replace("'", '"'))
    assert "outside" not in sys.modules
    run = fedfm.run(path)
    written = parse(run.folder.recipe.read_text())["algorithm"]
    assert written == {"name": "third", "class": "outside:Third", "share": 0.2}
    run = fedfm.resume(run.path, ["federation.rounds=3"])
    assert run.summary["rounds"] == 3
    assert "third" in (run.path / "report.html").read_text()
    assert run.recipe.algorithm.name == "third"


def test_a_recipe_that_names_an_installed_method_is_checked_and_shown(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "third")
    recipe = quick_recipe(tmp_path)
    text = commented(load_keys("quick", ["algorithm.name=third"]))
    assert re.search(r"# name: fedavg \|[^:]* third\n", text)
    assert "  # Share of each step that is taken.\n  share: 0.33\n" in text
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe | {"algorithm": {"name": "third", "shar": 1}, "tune": {"kind": "lora", "r": 0}})
    assert {problem.where: problem.message for problem in caught.value.problems} == {
        "algorithm.shar": "unknown key — did you mean `share`?",
        "tune.r": "must be ≥ 1",
    }
    with pytest.raises(RecipeError, match="did you mean `third`"):
        load_recipe(recipe | {"algorithm": {"name": "thrid"}})


def test_faulty_packages_are_refused_in_words(tmp_path: Path, site: Path) -> None:
    recipe = quick_recipe(tmp_path) | {"algorithm": {"name": "third"}}
    install(site, "third")
    (site / "outside.py").write_text("raise RuntimeError('broken')\n")
    with pytest.raises(
        RecipeError, match=r"`third` of the package outside .* cannot be imported: RuntimeError: broken"
    ):
        load_recipe(recipe)
    (site / "outside.py").write_text("Third = dict\n")
    sys.modules.pop("outside", None)
    with pytest.raises(RecipeError, match="is not a class derived from"):
        load_recipe(recipe)


def test_two_packages_of_one_name_are_refused(tmp_path: Path, site: Path) -> None:
    install(site, "third")
    install(site, "third", module="twin")
    with pytest.raises(RecipeError, match=r"installed by several packages \((outside, twin|twin, outside)\)"):
        load_recipe(quick_recipe(tmp_path) | {"algorithm": {"name": "third"}})


def test_a_recipe_causes_no_import(tmp_path: Path, site: Path) -> None:
    """The class that a recipe records is compared, never imported: a run's folder may be another's."""
    site.mkdir()
    (site / "outside.py").write_text(PACKAGE.replace("{name}", "third"))
    recorded = {"name": "third", "class": "outside:Third", "share": 0.2}
    with pytest.raises(RecipeError, match=r"install its package with an entry point in `fedfm\.algorithms`"):
        load_recipe(quick_recipe(tmp_path) | {"algorithm": recorded})
    assert "outside" not in sys.modules
    with pytest.raises(RecipeError, match=r"algorithm\.class: unknown key"):
        load_recipe(quick_recipe(tmp_path) | {"algorithm": {"name": "fedavg", "class": "outside:Third"}})


def test_another_class_of_the_same_name_does_not_resume(tmp_path: Path, site: Path) -> None:
    recipe = load_recipe(quick_recipe(tmp_path), algorithm=HalfStep())
    values = recipe.model_dump()
    values["algorithm"]["class"] = "elsewhere:HalfStep"
    with pytest.raises(RecipeError, match=r"not elsewhere:HalfStep, which this recipe was made with"):
        load_recipe(values)


class Unnamed(Algorithm):
    """Has no name of its own."""


class Thief(Algorithm):
    """Has the name of another."""

    name: Literal["fedavg"] = "fedavg"
    """Has the name of another."""


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"algorithm": Unnamed()}, 'needs a name of its own: a field `name: Literal["NAME"]'),
        ({"algorithm": Thief()}, "is that of a method of fedfm"),
        (
            {"model": FedAvg()},
            "must be a group of keys, such as `model: {path: …}`",
        ),
        ({"aggregate": FedAvg()}, "must be a group of keys, such as `aggregate: {rule: mean}`"),
        ({"algoritm": FedAvg()}, "did you mean `algorithm`"),
        ({"algorithm": "x"}, "must be a group of keys"),
    ],
)
def test_objects_that_are_not_methods(tmp_path: Path, methods: dict[str, Any], message: str) -> None:
    with pytest.raises(FedfmError) as caught:
        load_recipe(quick_recipe(tmp_path), **methods)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", ["ray", "flower"])
def test_b08_an_object_cannot_go_to_other_programs(tmp_path: Path, kind: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(quick_recipe(tmp_path, runtime={"kind": kind}), algorithm=HalfStep())
    (problem,) = caught.value.problems
    assert problem.where == "algorithm.name"
    assert f"`runtime.kind: {kind}` excludes that" in problem.message


def test_objects_of_fedfm_are_as_good_as_names(tmp_path: Path) -> None:
    assert load_recipe("quick", algorithm=FedAvg()) == load_recipe("quick", ["algorithm.name=fedavg"])
