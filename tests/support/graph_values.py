"""A second opinion on what was read of a torch module: the values of all tensors of a graph.

Torch runs the exported program in float64 call by call. Where the kernel's operator says all of
what a node computes (sums, products, reshapes, choices), it is computed here from the node's inputs
and compared; of the others torch's value is taken. Then every fact that the kernel knows is held
against the values.
"""

from __future__ import annotations

import numpy as np

from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.operators import (
    Broadcast,
    Concat,
    Contract,
    Elementwise,
    Linear,
    Lookup,
    PerUnit,
    Reshape,
    Size,
    Take,
    Transpose,
)
from moduli.kernel.graph.slices import ONE

BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum,
    "min": np.minimum, "pow": np.power,
}  # fmt: skip


def torch_values(source):
    """What torch gives at each call, in float64, by the names of calls."""
    import torch

    program, found = source.program, {}
    wide = {
        name: (x.double() if x.is_floating_point() else x)
        for name, x in source_tensors(source).items()
    }

    class Watching(torch.fx.Interpreter):
        def run_node(self, node):
            if "_assert_tensor_metadata" in str(node.target):
                return None  # of the type that the module has
            result = super().run_node(node)
            if str(node.target).startswith("aten.to."):
                given = self.fetch_args_kwargs_from_env(node)[0][0]
                floats = given.is_floating_point() and node.meta["val"].is_floating_point()
                result = given if floats else result
            if getattr(result, "dtype", None) in (torch.float32, torch.float16, torch.bfloat16):
                result = result.double()
            parts = result if isinstance(result, (tuple, list)) else [result]
            for k, part in enumerate(parts):
                if hasattr(part, "detach"):
                    found[f"{node.name}:{k}" if k else node.name] = part.detach().numpy()
            return result

    feeds = [x.double() if x.is_floating_point() else x for x in source.example.tensors()]
    given = iter(feeds)
    args = []
    for spec in program.graph_signature.input_specs:
        if spec.kind.name == "USER_INPUT" and not hasattr(spec.arg, "value"):
            args.append(next(given))
        else:
            args.append(wide.get(spec.arg.name, getattr(spec.arg, "value", None)))
    with torch.no_grad():
        Watching(program.graph_module).run(*args)
    return found


def source_tensors(source):
    return {name: tensor for name, (_, tensor) in source.reader.stored.items()}


def check_values(source):
    """Compare each node; returns the values and how many nodes were compared."""
    graph = source.full
    seen = torch_values(source)
    values = {name: np.asarray(a, dtype=np.float64 if a.dtype.kind == "f" or a.dtype.name == "bfloat16" else a.dtype)
              for name, a in graph.constants.items()}  # fmt: skip
    sizes = {}
    for name in graph.inputs:
        values[name] = seen[name.removesuffix(":value")]
        bind(graph.shapes[name], values[name].shape, sizes)
    compared = 0
    for node in graph.nodes:
        arrays = [values[x] for x in node.inputs]
        own = evaluated(node, arrays, graph.shapes[node.output], sizes)
        for name in node.outputs:
            if not name:
                continue
            given = taken(seen, name, graph, sizes)
            if own is not None and given is not None:
                np.testing.assert_allclose(own, given, rtol=1e-9, atol=1e-9, err_msg=f"{node}")
                compared += 1
            if given is None and own is None:
                given = substitute(node, arrays)
            values[name] = own if given is None else given
            bind(graph.shapes[name], values[name].shape, sizes)
    return values, compared


def taken(seen, name, graph, sizes):
    """Torch's value of a tensor of the graph, under the graph's axes."""
    base = name.removesuffix(":value").replace(":places", ":1")
    if base not in seen:
        return None
    shape = [sizes.get(n, n) for n in graph.shapes[name]]
    if any(isinstance(n, str) for n in shape):
        return seen[base]
    return seen[base].reshape(shape)


def bind(shape, actual, sizes):
    """Check a shape; a name of a size means one number."""
    assert shape is not None
    assert len(shape) == len(actual), (shape, actual)
    for n, m in zip(shape, actual, strict=True):
        if isinstance(n, str):
            assert sizes.setdefault(n, m) == m, (shape, actual, sizes)
        else:
            assert n == m, (shape, actual)


def evaluated(node, arrays, shape, sizes):
    """The output as the kernel's operator describes it; None where it does not say all."""
    op = node.op
    wanted = [sizes.get(n, n) for n in shape]
    if isinstance(op, Transpose):
        return arrays[0].transpose(op.order)
    if isinstance(op, Concat):
        return np.concatenate(arrays, op.axis)
    if isinstance(op, Take):
        return np.take(arrays[0], op.index[0] if op.drop else op.index, op.axis)
    if isinstance(op, Contract):
        return arrays[0] @ arrays[1]
    if isinstance(op, Lookup):
        return np.take(arrays[0], arrays[1], op.axis)
    if isinstance(op, Reshape):
        for ins, outs in op.blocks:
            assert np.prod([arrays[0].shape[i] for i in ins]) == np.prod([wanted[o] for o in outs])
        return arrays[0].reshape([-1 if isinstance(n, str) else n for n in wanted])
    if isinstance(op, Broadcast):
        return np.broadcast_to(arrays[0], wanted)
    if isinstance(op, Size) and op.payload == "1 / root":
        return np.array(arrays[0].shape[op.axes[0][1]] ** -0.5)
    if isinstance(op, PerUnit) and op.kind == "batchnorm":
        along = [-1 if axis == op.axis else 1 for axis in range(arrays[0].ndim)]
        scale, shift, mean, variance = (a.reshape(along) for a in arrays[1:])
        return (arrays[0] - mean) / np.sqrt(variance + op.numbers[0]) * scale + shift
    if isinstance(op, Linear) and not op.detail:
        assert op.groups == 1
        y = np.tensordot(arrays[0], arrays[1], (op.reads, op.columns))
        y = np.moveaxis(y, -1, op.writes)
        return y + arrays[2] if len(arrays) > 2 else y
    if isinstance(op, Elementwise):
        return elementwise(op, arrays)
    return None


def elementwise(op, arrays):
    kind = op.kind.removesuffix(" of integers")
    if kind in BINARY:
        return BINARY[kind](*arrays)
    if kind == "identity":
        return arrays[0].astype(np.float64)
    if kind == "where":
        return np.where(arrays[0], arrays[1], arrays[2])
    if kind == "prelu":
        return np.where(arrays[0] < 0, arrays[0] * arrays[1], arrays[0])
    if kind == "clip":
        return np.clip(arrays[0], *op.numbers)
    if kind == "leaky_relu":
        return np.where(arrays[0] < 0, arrays[0] * op.numbers[0], arrays[0])
    simple = {"relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
              "silu": lambda x: x / (1 + np.exp(-x)), "tanh": np.tanh, "neg": np.negative}  # fmt: skip
    return simple[kind](arrays[0]) if kind in simple else None


def substitute(node, arrays):
    """Parts of what torch computes in one call: a softmax inside attention."""
    if getattr(node.op, "kind", "") == "softmax":
        x = np.exp(arrays[0] - arrays[0].max(axis=-1, keepdims=True))
        return x / x.sum(axis=-1, keepdims=True)
    if isinstance(node.op, Size) and node.op.payload == "lower triangle":
        (a, i), (b, j) = node.op.axes
        return np.tri(arrays[a].shape[i], arrays[b].shape[j], dtype=bool)
    raise AssertionError(f"no value of {node}")


def check_facts(source, values):
    """Hold all that the kernel knows against the values; returns how many facts were looked at."""
    graph = source.full
    known = Known(graph, {})
    looked = 0
    classes = {}
    for (name, axis), facts in list(known.found.items()):
        array = values[name]
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            continue
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        assert len(facts) == len(rows)
        for i, row in enumerate(rows):
            slack = 1e-9 * (1 + np.abs(row).max(initial=0.0))
            assert (row >= facts.low[i] - slack).all(), (name, axis, i)
            assert (row <= facts.high[i] + slack).all(), (name, axis, i)
            ratio = float(facts.ratios[i])
            if ratio == 0 or facts.classes[i] == ONE:
                np.testing.assert_allclose(row, ratio, atol=slack, err_msg=f"{name} {axis} {i}")
                looked += 1
                continue
            unit = classes.setdefault(int(facts.classes[i]), row / ratio)
            if len(unit) == len(row):
                np.testing.assert_allclose(
                    row, unit * ratio, rtol=1e-7, atol=1e-9, err_msg=f"{name} {axis} {i}"
                )
                looked += 1
    return looked
