"""What is given to onnxruntime, to time it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from moduli.interface.timing import _inputs


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("float", "float32"), ("double", "float64"), ("float16", "float16"), ("int8", "int8"),
     ("uint8", "uint8"), ("int64", "int64")],
)  # fmt: skip
def test_inputs_have_the_type_that_the_file_reads(kind, dtype):
    wanted = SimpleNamespace(name="x", shape=["N", 3, 400], type=f"tensor({kind})")
    session = SimpleNamespace(get_inputs=lambda: [wanted])
    given = _inputs(session, np.random.default_rng(0))["x"]
    assert given.dtype == dtype
    assert given.shape == (1, 3, 400)
    if dtype in ("int8", "uint8"):
        assert len(np.unique(given)) > 200
