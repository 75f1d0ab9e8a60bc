"""Graphs and their certificates as the second checker, `checker/moduli_check.py`, reads them."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import moduli_check as second

from moduli.kernel.graph.certificate import GraphCertificate
from moduli.kernel.graph.model import GraphModel


def read_graph(model: GraphModel) -> Any:
    """A graph of the kernel as the second checker has it; raises `NotUnderstood`."""
    steps = []
    for node in model.nodes:
        kind = type(node.op).__name__
        if len(node.outputs) != 1 or None in model.shapes.values():
            raise second.NotUnderstood(f"{kind} of several outputs, or values of unknown shape")
        given = tuple((field.name, getattr(node.op, field.name)) for field in fields(node.op))
        steps.append(second.Step(second.Op(kind, given), node.inputs, node.outputs[0]))
    stored = {}
    for name, array in model.constants.items():
        if array.dtype.name not in second.CODES:
            raise second.NotUnderstood(f"numbers of type {array.dtype}")
        whole = array.dtype.kind in "biu"
        stored[name] = second.Tensor(array.shape, array.ravel().tolist(), whole, array.dtype.name)
    return second.Graph(model.inputs, model.outputs, tuple(steps), dict(model.shapes), stored)


def judged_graph(proof: GraphCertificate, small: GraphModel, large: GraphModel) -> str:
    try:
        data = json.loads(json.dumps(proof.to_json()))
        return str(second.check_graph(data, read_graph(small), read_graph(large)))
    except (second.Rejected, second.NotUnderstood) as error:
        return f"{'rejected' if isinstance(error, second.Rejected) else 'undecided'}: {error}"
