"""Trained ReLU models of others: nodes and hidden units after the tools that take ONNX files, on
the box they are used on.

All tools get the same graph, of opset 17 and for one input at a time: onnxslim and onnxsim refuse
two of the files as they are. MODULI_SHARED names the folder of models, default ../shared."""

from __future__ import annotations

import json
import os
from pathlib import Path

import tool_onnxsim
import tool_onnxslim
from common import change, failed, present, table, timed

import moduli as mo

SHARED = (
    Path(os.environ.get("MODULI_SHARED", Path(__file__).parents[2] / ".." / "shared")) / "models"
)
MODELS = (
    "tll_8.onnx",
    "KERAS_3layer_70pruned_retrained_weights.converted.onnx",
    "hls_three_layer_bn_pytorch.onnx",
    "acasxu_1_1.onnx",
)


def main() -> None:
    if not SHARED.is_dir():
        print(f"\n**skipped: no models at {SHARED}; set MODULI_SHARED**")
        return
    from onnx import load, version_converter

    boxes = json.loads((SHARED / "boxes.json").read_text())
    peers = present(tool_onnxslim, tool_onnxsim)
    rows: list[tuple[object, ...]] = []
    for name in MODELS:
        sides = next(sides for key, sides in boxes.items() if key.startswith(name.split(".")[0]))
        box, model = (
            mo.Box(sides["lo"], sides["hi"]),
            version_converter.convert_version(load(SHARED / name), 17),
        )
        model.ir_version = max(model.ir_version, 8)
        for port in (*model.graph.input, *model.graph.output):
            for dim in port.type.tensor_type.shape.dim[:1]:
                dim.dim_value = 1
        net = mo.load(model)
        rows.append((name, "as it is", len(model.graph.node), net.units, "", "", ""))
        for on, where in ((None, "all inputs"), (box, "the box")):
            small, seconds = timed(lambda net=net, on=on: mo.compress(net, on=on))
            proof = "checked" if small.check() else "rejected"
            rows.append(
                (
                    "",
                    f"moduli, {where}",
                    "",
                    small.network.units,
                    change(net, small.network, box),
                    proof,
                    seconds,
                )
            )
        for peer in peers:
            try:
                slim, seconds = timed(
                    lambda model=model, box=box, peer=peer: peer.slim(model, box), 2
                )
                after = mo.load(slim)
                rows.append(
                    (
                        "",
                        peer.NAME,
                        len(slim.graph.node),
                        after.units,
                        change(net, after, box),
                        peer.PROOF,
                        seconds,
                    )
                )
            except Exception as error:  # a tool that fails is a row, not the end of the comparison
                rows.append(("", peer.NAME, failed(error), "", "", "", ""))
    title = "Nodes and hidden units of trained models"
    table(
        title,
        (
            "model",
            "tool",
            "nodes",
            "units left",
            "largest change at 10^4 points",
            "proof",
            "seconds",
        ),
        rows,
    )


if __name__ == "__main__":
    main()
