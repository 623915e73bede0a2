"""A folder of images, one subfolder a class."""

from __future__ import annotations

import hashlib
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PIL_Image

from fedfm.errors import RecipeError


def read_image_folder(folder: Path, *, where: str) -> Dataset:
    """The images ``folder/CLASS/FILE`` as columns ``image`` and ``label``, in the order of their names.

    Read here rather than by `datasets`' image folder, which takes class folders or files called train or test for
    splits and leaves the others out.

    Raises:
        RecipeError: when a subfolder holds no image, or there is none.
    """
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise RecipeError(f"{folder} has no subfolders; images must lie in {folder}/CLASS/", where=where)
    paths: list[str] = []
    labels: list[int] = []
    for label, subfolder in enumerate(classes):
        images = _image_files(subfolder)
        if not images:
            raise RecipeError(f"no images in {subfolder}; images must lie in {folder}/CLASS/", where=where)
        paths += map(str, images)
        labels += [label] * len(images)
    features = Features({"image": Image(), "label": ClassLabel(names=[entry.name for entry in classes])})
    return Dataset.from_dict({"image": paths, "label": labels}, features=features)


def folder_digest(folder: Path) -> str:
    """sha256 (hex) over the names and bytes of the images in ``folder/*/``."""
    whole = hashlib.sha256()
    for path in sorted(path for entry in folder.iterdir() if entry.is_dir() for path in _image_files(entry)):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256")
        whole.update(str(path.relative_to(folder)).encode() + b"\0" + content.digest())
    return whole.hexdigest()


def _image_files(folder: Path) -> list[Path]:
    endings = PIL_Image.registered_extensions()
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and not path.name.startswith("."))
