"""What a client keeps between rounds: named groups of tensors, and their bytes.

Groups are named by who keeps them: ``algorithm/NAME``, ``stage-N/GROUP``, ``view/tunable``, ``optimizer/NAME``.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedfm.errors import FedfmError
from fedfm.params import Params
from fedfm.untrusted import UntrustedError
from fedfm.wire import from_bytes, to_bytes

State = Mapping[str, Params]
"""Group → tensors by name; nothing for a client that keeps nothing."""


class LostStateError(FedfmError):
    """A client no longer has the state that it is asked to continue from."""


def encode_state(state: State) -> bytes:
    """The bytes of a client's state."""
    return to_bytes({f"{group}/{name}": tensor for group, params in state.items() for name, tensor in params.items()})


def decode_state(content: bytes) -> dict[str, Params]:
    """The state in these bytes.

    Raises:
        LostStateError: they are damaged.
    """
    try:
        tensors, _ = from_bytes(content)
    except UntrustedError as error:
        raise LostStateError(f"the client's state is damaged ({error})") from error
    state: dict[str, Params] = {}
    for key, tensor in tensors.items():
        group, _, name = key.rpartition("/")
        state.setdefault(group, {})[name] = tensor.clone()  # what is read lies in the message, and cannot be written to
    return state


def part(state: State, namespace: str) -> dict[str, Params]:
    """The groups of one namespace, by the rest of their names."""
    return {
        key.removeprefix(f"{namespace}/"): params for key, params in state.items() if key.startswith(f"{namespace}/")
    }


def named(namespace: str, groups: Mapping[str, Params]) -> dict[str, Params]:
    """The inverse of `part`."""
    return {f"{namespace}/{key}": params for key, params in groups.items()}
