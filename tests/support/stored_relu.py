"""Stored ReLU networks with known answers on boxes."""

from __future__ import annotations

import json

import numpy as np

import moduli as mo


def relu(*layers, activation="relu"):
    return mo.Network.mlp(
        *(np.array(p, dtype=float) for layer in layers for p in layer), activation=activation
    )


def cases(shared, *kinds):
    stored = json.loads((shared / "cases" / "relu.json").read_text())["cases"]
    return [case for case in stored if case["kind"] in kinds]


def read(layers):
    return relu(*((layer["W"], layer["b"]) for layer in layers))


def box_of(case):
    return mo.Box(*np.array(case["box"]).T)
