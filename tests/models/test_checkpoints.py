"""Where a backbone is looked for, and the errors when it is not found."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import filter_repo_objects

from fedfm.errors import RecipeError, StorageError
from fedfm.models import builtin, hub
from fedfm.models.checkpoints import open_checkpoint
from fedfm.models.settings import ModelSettings

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def refusal(path: str | Path, *, revision: str | None = None, allow_network: bool = False) -> str:
    with (
        pytest.raises(RecipeError) as caught,
        open_checkpoint(ModelSettings(path=str(path), revision=revision), allow_network=allow_network),
    ):
        pass
    (problem,) = caught.value.problems
    return str(problem)


def put_in_hub_cache(name: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """Lays a snapshot out as the Hugging Face cache does."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def test_a_local_folder_is_used_as_it_is(tmp_path: Path) -> None:
    builtin.write_random_model("tiny-bert", tmp_path)
    with open_checkpoint(ModelSettings(path=str(tmp_path))) as checkpoint:
        assert (checkpoint.folder, checkpoint.name, checkpoint.revision) == (tmp_path, str(tmp_path), None)
    assert tmp_path.is_dir()


def test_a_random_builtin_leaves_nothing_behind() -> None:
    with open_checkpoint(ModelSettings(path="builtin:tiny-bert")) as checkpoint:
        assert (checkpoint.folder / "model.safetensors").is_file()
        assert checkpoint.name == "builtin:tiny-bert"
    assert not checkpoint.folder.exists()


@pytest.mark.parametrize("allow_network", [False, True])
def test_a_hub_id_in_the_cache_needs_no_network(
    allow_network: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    builtin.write_random_model("tiny-bert", put_in_hub_cache("someone/tiny", monkeypatch, tmp_path))
    with open_checkpoint(ModelSettings(path="someone/tiny"), allow_network=allow_network) as checkpoint:
        assert (checkpoint.name, checkpoint.revision) == ("someone/tiny", COMMIT)
        assert (checkpoint.folder / "config.json").is_file()


def test_b10_a_hub_id_that_is_not_here_says_how_to_get_it() -> None:
    said = refusal("someone/absent")
    assert said.startswith("model.path: someone/absent was not found locally")
    assert "`hf download someone/absent` or set `allow_network: true`" in said
    assert "\n" not in said
    assert "hf download someone/absent --revision v2" in refusal("someone/absent", revision="v2")
    assert "check the network and `HF_HUB_OFFLINE`" in refusal("someone/absent", allow_network=True)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (GatedRepoError, "model.path: a/b is gated: accept its terms"),
        (RepositoryNotFoundError, "model.path: no model a/b on the hub, or it is private"),
        (RevisionNotFoundError, "model.revision: a/b has no revision v9"),
        (HfHubHTTPError, "model.path: a/b at revision v9 cannot be downloaded from the hub"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_line(
    error: type[HfHubHTTPError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> str:
        raise error.__new__(error)

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    assert refusal("a/b", revision="v9", allow_network=True).startswith(says)


def test_a_connection_that_breaks_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> str:
        raise hub._HTTPError("reset by peer")

    monkeypatch.setattr(hub, "snapshot_download", broken)
    assert refusal("a/b", allow_network=True) == "model.path: a/b cannot be downloaded from the hub: reset by peer"


def test_a_full_disk_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "snapshot_download", full)
    with (
        pytest.raises(StorageError, match=r"a/b cannot be written to the Hugging Face cache: .*No space left"),
        open_checkpoint(ModelSettings(path="a/b"), allow_network=True),
    ):
        pass


def test_an_adapter_is_never_fetched_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the patterns that are fetched, of the files that repositories have."""
    listed = ["config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors", "a/config.json"]
    fetched: list[str] = []

    def answer(name: str, **options: Any) -> str:
        fetched.extend(
            filter_repo_objects(
                listed, allow_patterns=options["allow_patterns"], ignore_patterns=options["ignore_patterns"]
            )
        )
        return str(tmp_path)

    builtin.write_random_model("tiny-bert", tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", answer)
    with open_checkpoint(ModelSettings(path="a/b"), allow_network=True):
        pass
    assert fetched == ["config.json", "model.safetensors"]


def test_a_name_the_hub_does_not_allow_is_refused() -> None:
    assert refusal("a--b/c").startswith("model.path: a--b/c is neither a folder nor a hub id")


def test_the_network_is_asked_only_when_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def answer(name: str, **options: object) -> str:
        asked.append((name, options["revision"], options["local_files_only"]))
        return str(tmp_path)

    builtin.write_random_model("tiny-bert", tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", answer)
    for allow_network in (False, True):
        with open_checkpoint(ModelSettings(path="a/b", revision="v1"), allow_network=allow_network):
            pass
    assert asked == [("a/b", "v1", True), ("a/b", "v1", False)]


def test_a_folder_that_is_not_there_is_named_in_full(tmp_path: Path) -> None:
    assert str(tmp_path / "absent") in refusal(tmp_path / "absent")
    assert "no such folder: /" in refusal("./absent")


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "is a file; give the folder" in refusal(tmp_path / "model.safetensors")


def test_a_folder_without_config_is_not_a_model(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"model.path: no config.json in {tmp_path}: not the folder of a model"


def test_a_folder_without_weights_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "has no weights; it needs model.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize("path", ["builtin:tiny-bert", "builtin:minilm", "."])
def test_only_hub_ids_have_revisions(path: str) -> None:
    assert refusal(path, revision="main") == f"model.revision: {path} has no revisions; only hub ids have revisions"
