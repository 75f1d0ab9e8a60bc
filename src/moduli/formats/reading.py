"""Which of the four options of reading (`moduli.common.arguments.Reading`) concern which source.

Of one model an option that does not concern it is refused, for it would be ignored. Of several each
takes what concerns it, and an option that concerns none is refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from moduli.common.arguments import READING, Reading
from moduli.common.files import suffix_of
from moduli.common.graph import Graph
from moduli.kernel.activations import Activation
from moduli.kernel.errors import ArgumentError, Asked
from moduli.kernel.network import Network

STATES = ".pth", ".pt", ".tar", ".ckpt", ".zip", ".safetensors"
GRAPHS = ".onnx", ".tflite", ".keras", ".h5", ".hdf5"
WHOLE = ".nnet", ".npz"
KINDS = {
    "activation": "files that store none: state dicts, (weight, bias) pairs",
    "keys": "state dicts",
    "output": "ONNX, TensorFlow Lite and Keras files with several outputs",
    "input_shape": "models that leave it open: ONNX and Keras files, torch modules",
}


def concerning(source: Any) -> frozenset[str]:
    """The options that can matter for a source; all of a source of an unknown kind, whose reader says
    what it is.

    >>> sorted(concerning("policy.pth")), sorted(concerning("zoo:digits-tanh")), sorted(concerning("a.onnx.gz"))
    (['activation', 'keys'], [], ['input_shape', 'output'])
    """
    if isinstance(source, (Network, Graph)):
        return frozenset()
    if isinstance(source, (list, tuple)):
        return frozenset({"activation"})
    if "torch" in sys.modules and isinstance(source, sys.modules["torch"].nn.Module):
        return frozenset({"input_shape"})
    if not isinstance(source, (str, os.PathLike)):
        return frozenset({"output", "input_shape"})
    if str(source).startswith("zoo:"):
        graph = str(source) == "zoo:person-detector"
        return frozenset({"output", "input_shape"}) if graph else frozenset()
    suffix, _ = suffix_of(Path(source))
    if suffix in STATES:
        return frozenset({"activation", "keys"})
    if suffix in GRAPHS:
        return frozenset({"output", "input_shape"})
    return frozenset() if suffix in WHOLE else frozenset(READING)


def fitted(sources: Sequence[Any], given: Mapping[str, Any]) -> list[Reading]:
    """For each of several sources the options that concern it.

    Raises:
        ArgumentError: an option concerns none of them.

    >>> fitted(["a.onnx", "b.pth"], {"activation": "tanh", "keys": None})
    [{}, {'activation': 'tanh'}]
    """
    asked = {name: value for name, value in given.items() if value is not None}
    _require_known(asked.get("activation"))
    concerns = [concerning(source) for source in sources]
    for name, value in asked.items():
        if not any(name in kinds for kinds in concerns):
            named = " or ".join(dict.fromkeys(map(_named, sources)))
            raise ArgumentError(
                Asked(name, value), f" is for {KINDS[name]}, not for {named}; leave it out"
            )
    parts = []
    for kinds in concerns:
        parts.append({name: value for name, value in asked.items() if name in kinds})
    return cast("list[Reading]", parts)


def _require_known(activation: Any) -> None:
    """Refuse a name of an activation that nobody knows, before a file is blamed for it."""
    several = isinstance(activation, (list, tuple))
    for name in activation if several else [activation]:
        if isinstance(name, str):
            try:
                Activation.of(name)
            except ValueError as error:
                raise ArgumentError(Asked("activation", activation), f": {error}") from None


def _named(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    return repr(source) if isinstance(source, (Network, Graph)) else type(source).__name__
