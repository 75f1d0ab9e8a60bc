"""TensorFlow Lite's own interpreter, with its own kernels alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType


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
