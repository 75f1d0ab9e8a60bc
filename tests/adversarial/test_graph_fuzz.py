"""Random graphs against the kernel of graphs, briefly; `python -m tests.adversarial.graph_fuzz
--count N` tries more.
"""

from __future__ import annotations

import graph_fuzz as fuzz
import many_seeds
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser


def require_none(total, count):
    assert not many_seeds.wrong(total), total
    assert total["passed"] > 0.7 * count, "a fuzzer that skips everything teaches nothing"
    assert total["reduced"] > 0.1 * count, total
    assert total["facts"] > 10 * count, total


def test_some_graphs():
    require_none(fuzz.run(range(60)), 60)


@pytest.mark.slow
def test_hundreds_of_graphs():
    require_none(fuzz.run(range(10_000, 10_350)), 350)


def test_the_same_number_gives_the_same_graph():
    once, again = (fuzz.make(7) for _ in range(2))
    assert once is not None
    assert again is not None
    assert once.model == again.model


@pytest.mark.parametrize("name", fuzz.STEPS)
def test_every_step_is_taken(name):
    for seed in range(400):
        g = fuzz.Planted(np.random.default_rng(seed))
        body = g.pick(fuzz.SHAPES[2 if name == "attention" else g.pick((1, 2, 3))])
        shape = body if g.batch is None else (g.rows, *body)
        g.values["x"] = np.asarray(g.dyadic(shape), dtype=np.float32)
        g.values["z"] = np.asarray(g.dyadic(shape), dtype=np.float32)
        for value in ("x", "z"):
            g.declared[value] = onnx.helper.make_tensor_value_info(value, 1, shape)
        try:
            y = fuzz.STEPS[name][1](g, "x")
            g.value(y)
        except fuzz.Rejected:
            continue
        return
    raise AssertionError(f"{name} never makes anything")


def case_of(text, **weights):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    shapes = {
        end.name: tuple(d.dim_value for d in end.type.tensor_type.shape.dim)
        for end in model.graph.input
    }
    return fuzz.Case(model, {}, shapes, (), {})


TRANSPOSED = """(float[2,4,4] x) => (float[2,4,4] y) {
    t = Transpose<perm=[0,2,1]>(x) d = Sub(x, t) e = Add(x, d) y = Relu(e) }"""


def test_what_is_false_is_found(monkeypatch):
    # a rule that was there once: slices of a transposed tensor are the slices of the tensor
    from moduli.kernel.graph.operators import Transpose

    assert fuzz.checked(case_of(TRANSPOSED), 0)["facts"] >= 0

    def careless(self, node, axis, facts):
        return facts.of((node.inputs[0], self.order[axis]))

    monkeypatch.setattr(Transpose, "slices", careless)
    with pytest.raises(fuzz.Wrong) as caught:
        fuzz.checked(case_of(TRANSPOSED), 0)
    assert caught.value.kind in ("bounds", "constant")
    # and what follows from it differs
    monkeypatch.setattr(fuzz, "require_facts", lambda *_: 0)
    with pytest.raises(fuzz.Wrong) as caught:
        fuzz.checked(case_of(TRANSPOSED), 0)
    assert caught.value.kind == "reduced differs"
