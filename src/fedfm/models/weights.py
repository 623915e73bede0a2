"""Finds and reads the weight files of a checkpoint.

transformers does not read them, because it would use more than the weights of a folder: an adapter beside them, files
that the config names, shards of distributed training.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedfm.errors import DataError, RecipeError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_OTHERS = ("*.h5", "*.msgpack", "*.gguf", "*.onnx", "*.safetensors")


def weight_files(folder: Path, name: str) -> list[Path]:
    """The weight files of a checkpoint: one file, or the shards that its index lists.

    Args:
        folder: of the checkpoint.
        name: of the checkpoint, for messages.

    Raises:
        RecipeError: at ``model.path``: the checkpoint has no safetensors weights, or it is unclear which files to use.
        DataError: the index is damaged, or lists a file that is not in the folder.
    """
    whole, index = folder / WHOLE, folder / INDEX
    shards = _shards(index) if index.is_file() else []
    if whole.is_file():
        if shards and shards != [WHOLE]:
            raise _refusal(f"{name} has both {WHOLE} and {INDEX}, which lists other files; remove the outdated one")
        return [whole]
    if not shards:
        raise _refusal(f"{name} has {_instead(folder)}")
    if lacking := [shard for shard in shards if not (folder / shard).is_file()]:
        raise DataError(
            f"{name} lacks {', '.join(lacking[:3])}{_more(lacking, 3)}, which {INDEX} lists; download the model again"
        )
    return [folder / shard for shard in shards]


def read_weights(files: list[Path], name: str) -> dict[str, Tensor]:
    """The tensors of weight files; they are memory-mapped, not copied.

    Raises:
        DataError: a file is damaged, or two files contain a tensor of the same name.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            found = load_file(file)
        except (SafetensorError, OSError) as error:
            raise DataError(f"the weights of {name} are damaged ({file.name}: {error}); download them again") from error
        if twice := sorted(found.keys() & tensors.keys()):
            raise DataError(f"two weight files of {name} contain the tensor {twice[0]}; download the model again")
        tensors |= found
    return tensors


def _shards(index: Path) -> list[str]:
    """The files that an index lists, sorted; all are in the folder of the index."""
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [shard for shard in shards if Path(shard).name != shard or "\\" in shard]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{index} is not an index of weights; download the model again") from error
    if outside:
        raise DataError(f"{index} lists {outside[0]!r}, which is not a file of its own folder; do not use this model")
    return shards


def _instead(folder: Path) -> str:
    """Says what a folder without safetensors weights contains instead, and what to do."""
    if pickled := _names(folder, _PICKLED):
        return (
            f"only pickled weights ({', '.join(pickled[:3])}{_more(pickled, 3)}), which can run code and are never "
            f"opened. Use a revision with {WHOLE}, or, if you trust the source, convert them: {_conversion(folder)}"
        )
    if others := _names(folder, _OTHERS):
        return (
            f"no {WHOLE}, only {', '.join(others[:3])}{_more(others, 3)}; save it with transformers' `save_pretrained`"
        )
    return f"no weights; it needs {WHOLE}"


def _conversion(folder: Path) -> str:
    """A command that converts pickled weights, including all heads, to safetensors in the same folder."""
    try:
        (architecture,) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        architecture = "AutoModel"
    if not (isinstance(architecture, str) and architecture.isidentifier()):
        architecture = "AutoModel"
    where = str(folder.absolute())
    return (
        f'python -c "import transformers; m = transformers.{architecture}.from_pretrained({where!r}); '
        f'm.save_pretrained({where!r})"'
    )


def _names(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    return sorted(file.name for pattern in patterns for file in folder.glob(pattern))


def _more(names: list[str], shown: int) -> str:
    return f" and {len(names) - shown} more" if len(names) > shown else ""


def _refusal(message: str) -> RecipeError:
    return RecipeError(message, where="model.path")
