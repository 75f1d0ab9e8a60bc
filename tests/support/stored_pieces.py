"""Stored networks with known pieces."""

from __future__ import annotations

import json

import moduli as mo


def stored(shared):
    cases = json.loads((shared / "cases" / "relu.json").read_text())["cases"]
    return [c for c in cases if "cells" in c["expect"] and c.get("box") and "net" in c]


def read(case):
    net = mo.Network.mlp(
        *(p for layer in case["net"] for p in (layer["W"], layer["b"])), activation="relu"
    )
    return net, mo.Box([b[0] for b in case["box"]], [b[1] for b in case["box"]])
