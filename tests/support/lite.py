"""TensorFlow Lite's own interpreter, with its own kernels alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType


def reference(model: bytes, *inputs: Any) -> Any:
    """The only output, as the reference kernels compute it, at many inputs: arrays ``[points, *shape]``."""
    lite = Interpreter(
        model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    lite.allocate_tensors()
    (last,) = lite.get_output_details()
    places = [detail["index"] for detail in lite.get_input_details()]
    found = []
    for point in zip(*inputs, strict=True):
        for place, x in zip(places, point, strict=True):
            lite.set_tensor(place, x)
        lite.invoke()
        found.append(lite.get_tensor(last["index"]).copy())
    return np.stack(found)


def micro(model: bytes, *inputs: Any) -> Any:
    """The only output, as TensorFlow Lite for Microcontrollers computes it; likewise."""
    from tflite_micro import runtime

    found, device = [], runtime.Interpreter.from_bytes(model)
    for point in zip(*inputs, strict=True):
        for place, x in enumerate(point):
            device.set_input(x, place)
        device.invoke()
        found.append(device.get_output(0).copy())
    return np.stack(found)


def run(model: bytes, *inputs: Any) -> list[Any]:
    """The outputs of a file, in order."""
    lite = Interpreter(
        model_content=model,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    lite.allocate_tensors()
    for detail, x in zip(lite.get_input_details(), inputs, strict=True):
        lite.set_tensor(detail["index"], np.asarray(x).astype(detail["dtype"]))
    lite.invoke()
    return [lite.get_tensor(detail["index"]) for detail in lite.get_output_details()]
