"""Functions that a file defines are written out where they are used."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, parser

import moduli as mo

TEXT = """<ir_version: 9, opset_import: ["" : 17, "loc" : 1]>
g (float[N,4] x) => (float[N,2] y) {
  h = loc.layer <slope = 0.25> (x, first)
  y = loc.layer <slope = 1.0> (h, last)
}
<opset_import: ["" : 17, "loc" : 1], domain: "loc">
bend <slope> (x) => (y) { half = Constant <value = float {0.5}> () z = LeakyRelu <alpha: float = @slope> (x) y = Mul (z, half) }
<opset_import: ["" : 17, "loc" : 1], domain: "loc">
layer <slope> (x, w) => (y) { c = MatMul (x, w) y = loc.bend <slope: float = @slope> (c) }
"""


def model():
    rng = np.random.default_rng(0)
    first = np.round(rng.normal(size=(4, 5)) * 8).astype(np.float32) / 8
    first[:, 2] = 2 * first[:, 0]
    last = np.round(rng.normal(size=(5, 2)) * 8).astype(np.float32) / 8
    found = parser.parse_model(TEXT)
    for name, array in (("first", first), ("last", last)):
        found.graph.initializer.append(numpy_helper.from_array(array, name))
    return found, first, last


def by_hand(first, last, x):
    h = x @ first
    h = np.where(h > 0, h, 0.25 * h) / 2
    return h @ last / 2


def test_they_are_read_and_written_out(tmp_path):
    file, first, last = model()
    graph = mo.load(file)
    x = np.random.default_rng(1).normal(size=(3, 4))
    np.testing.assert_allclose(graph(x), by_hand(first, last, x), rtol=0, atol=1e-12)
    small = mo.compress(graph)
    assert small.check()
    assert small.network.parameters == 4 * 4 + 4 * 2
    path = mo.save(small.network, tmp_path / "small.onnx")
    written = onnx.load(path)
    onnx.checker.check_model(written)
    assert not written.functions
    np.testing.assert_allclose(mo.load(path)(x), graph(x), rtol=0, atol=1e-12)
    assert any("local functions are written out" in note for note in graph.notes)
