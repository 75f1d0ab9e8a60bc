"""The likeliest mistakes of a newcomer: each ends in one line that names it and the way out, and in
its exit code.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save_model

import moduli as mo
from moduli.common.domains import ON_ALL, ON_BOX, ON_GAUSSIAN, ON_SAMPLES
from moduli.interface.cli import OF_GRAPHS, _domain, main
from moduli.interface.cli_support import failure
from moduli.interface.wording import option
from moduli.kernel.errors import Asked

SUFFIXES = ".onnx .nnet .safetensors .npz .pth .pt .tar .ckpt .tflite .keras .h5 .hdf5"


def graph(path: Path, *nodes: object, shape: tuple[int, ...]) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    save_model(helper.make_model(helper.make_graph(list(nodes), "g", [x], [y])), path)


def torch_files(folder: Path) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    torch.save(module, folder / "module.pth")
    torch.save(module.state_dict(), folder / "state.pth")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models and data as people have them."""
    place = tmp_path_factory.mktemp("models")
    deep = mo.Network.mlp(
        np.eye(3), [0, 0, 0], np.ones((2, 3)), [0, 0], np.ones((1, 2)), [0], activation="relu"
    )
    wide = mo.Network.mlp([[1.0, 2.0], [1.0, 2.0]], [0.5, 0.5], [[1.0, 1.0]], [0.0])
    mo.save(deep, place / "deep.onnx")
    mo.save(wide, place / "wide.npz")
    small = mo.compress(wide)
    mo.save(small.network, place / "small.npz")
    small.save(place / "small.npz.cert.json")
    np.savez(place / "x.npz", x=np.zeros((4, 2)))
    broken = {"W1": [[0.0, np.nan]], "b1": [0.0], "W2": [[1.0]], "b2": [0.0]}
    np.savez(
        place / "nan.npz", **broken, activations=np.array(["tanh"]), output_map=np.array("identity")
    )
    graph(
        place / "pool.onnx",
        helper.make_node("MaxPool", ["x"], ["y"], "pool", kernel_shape=[2, 2]),
        shape=(1, 1, 4, 4),
    )
    relu = helper.make_node("Relu", ["x"], ["h"], "relu")
    graph(
        place / "residual.onnx",
        relu,
        helper.make_node("Add", ["x", "h"], ["y"], "skip"),
        shape=(1, 4),
    )
    property_ = "".join(
        f"(declare-const X_{k} Real)(assert (>= X_{k} 0))(assert (<= X_{k} 1))" for k in range(5)
    )
    (place / "five.vnnlib").write_text(property_)
    torch_files(place)
    return place


MISTAKES = {
    "a misspelled file": (
        "compress wide.nzp -o out.npz",
        4,
        "wide.nzp: no such file or folder; did you mean wide.npz?",
    ),
    "a file of another kind": (
        "info five.vnnlib",
        4,
        f"five.vnnlib: cannot read suffix '.vnnlib'; suffixes: {SUFFIXES}; export the model to ONNX",
    ),
    "an operation that is not dense": (
        "identify pool.onnx --on box:-1,1",
        4,
        "pool.onnx is no chain of dense layers, of which alone this is asked; of graphs such as this one ask "
        f"{OF_GRAPHS} "
        "(pool.onnx: node 0 'pool' (MaxPool) is not understood; understood are dense layers (Gemm, MatMul, Conv on its whole "
        "image), Add/Sub/Mul/Div with constants, BatchNormalization, rearrangements, activations (Relu, LeakyRelu, PRelu, Elu, "
        "Selu, Celu, Clip, HardSigmoid, HardSwish, Mish, Tanh, Sigmoid, Erf, Gelu, Swish, Softplus, Sin, Abs), and Softmax "
        "last; dense blocks inside any torch module are narrowed by moduli.pytorch.shrink)",
    ),
    "a residual network": (
        "identify residual.onnx --on box:-1,1",
        4,
        "residual.onnx is no chain of dense layers, of which alone this is asked; of graphs such as this one ask "
        f"{OF_GRAPHS} "
        "(residual.onnx: node 1 'skip' (Add): two tensors that depend on the input meet, with activations between them (a "
        "residual connection or a branch); affine images of the same activations may meet)",
    ),
    "a whole module, pickled": (
        "info module.pth",
        4,
        "module.pth holds pickled objects beyond tensors, which could run code and are not loaded; save model.state_dict() or "
        "a .safetensors file instead, or pass the module itself",
    ),
    "a state dict without activations": (
        "info state.pth",
        4,
        "state.pth stores no activation; give it, as in --activation relu (layers: 0, 2)",
    ),
    "weights that are no numbers": (
        "rank nan.npz",
        4,
        "nan.npz: layer 1: weight[0, 1] is nan; every parameter must be finite",
    ),
    "a box of another size": (
        "compress deep.onnx -o out.onnx --on box:five.vnnlib",
        2,
        "a box of 5 inputs for a network with 3; give one for 3, or one pair for all",
    ),
    "a box turned round": (
        "compress deep.onnx -o out.onnx --on box:1,-1",
        2,
        "--on box:1,-1: 1 exceeds -1; write box:-1,1",
    ),
    "data of another size": (
        "compress deep.onnx -o out.onnx --on x.npz --units 2",
        2,
        "samples have shape (4, 2); the network has 3 inputs, so rows of 3 numbers are needed",
    ),
    "an average where a box is needed": (
        "identify deep.onnx --on gaussian",
        2,
        "--on gaussian: identifiability is asked in a box; give --on box:-1,1",
    ),
    "networks that cannot be compared": (
        "equal deep.onnx wide.npz",
        2,
        "the first network maps R^3 to R^1, the second R^2 to R^1; only networks with the same inputs and outputs are compared",
    ),
    "a size without a law of inputs": (
        "compress deep.onnx -o out.onnx --units 2",
        2,
        "--units 2 on all inputs: a size goes with mean errors; give --on gaussian or --on FILE.npz",
    ),
    "no units at all": (
        "compress deep.onnx -o out.onnx --on gaussian --units 0",
        2,
        "--units 0 for hidden widths [3, 2]; give one number, or one per hidden layer, each at least 1",
    ),
    "a radius on a box": (
        "compress deep.onnx -o out.onnx --radius 0.1 --on box:-1,1",
        2,
        "--radius 0.1 with --on box: a radius goes alone, on all inputs; leave out one of them",
    ),
    "a curve of a deep network": (
        "curve deep.onnx",
        2,
        "lower bounds within a radius are known for one hidden layer of tanh, sigmoid or erf, not Network(3-3-2-1, relu, 23 "
        "parameters); `rank` with a radius gives an upper bound",
    ),
    "networks swapped": (
        "check small.npz.cert.json wide.npz small.npz",
        1,
        "the networks are swapped: give the smaller one first, the original second",
    ),
    "no folder to write to": (
        "compress wide.npz -o out/small.npz",
        2,
        "cannot write out/small.npz: there is no folder out; make it, or choose another place",
    ),
    "a suffix that cannot be written": (
        "compress wide.npz -o small.h5",
        2,
        "cannot write small.h5: the suffix '.h5' is none of .onnx .safetensors .npz .nnet .tflite",
    ),
    "no place to write to": (
        "compress wide.npz",
        2,
        "missing option '-o' / '--out'; as in: moduli compress controller.onnx -o small.onnx",
    ),
    "a misspelled command": (
        "compres wide.npz",
        2,
        "no such command 'compres'. Did you mean 'compress'?; moduli --help lists the commands",
    ),
    "torch is absent": (
        "train digits -o out.onnx",
        4,
        "torch is not installed; run: pip install 'moduli[torch]'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_the_way_out(folder, monkeypatch, capsys, name):
    typed, code, line = MISTAKES[name]
    if "absent" in name:
        for module in [
            module for module in sys.modules if module.startswith("moduli.") and ".torch_" in module
        ]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["moduli", *typed.split()])
    before = sorted(folder.iterdir())
    with pytest.raises(SystemExit) as end:
        main()
    assert capsys.readouterr() == ("", f"moduli: {line}\n")
    assert end.value.code == code
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("asked", "said", "typed"),
    [
        (ON_ALL, "on='all'", "--on all"),
        (ON_BOX, "on=Box(-1, 1)", "--on box:-1,1"),
        (ON_GAUSSIAN, "on=Gaussian()", "--on gaussian"),
        (ON_SAMPLES, "on=Samples(x)", "--on FILE.npz"),
        (Asked("on", None), "on=None", "--on all"),
        (Asked("on", mo.Box), "on=Box", "--on box"),
        (Asked("on", mo.Box([0, 0], [1, 2])), "on=Box(0, [1.0, 2.0])", "--on box:0;1,2"),
        (Asked("on", mo.Box([-2] * 9, [2] * 9)), "on=Box(-2, 2)", "--on box:-2,2"),
        (Asked("on", mo.Box(range(9), 9)), "on=Box(<9: 0 to 8>, 9)", "--on box"),
        (Asked("on", mo.Samples([[1.0]])), "on=Samples(1 rows of 1)", "--on FILE.npz"),
        (
            Asked("on", mo.Grid(0, 1, kernels="litert")),
            "on=Grid(0, 1, kernels='litert')",
            "--on grid:0,1 --kernels litert",
        ),
        (Asked("eps", 0.1), "eps=0.1", "--eps 0.1"),
        (Asked("max_slack", 1.5), "max_slack=1.5", "--max-slack 1.5"),
        (Asked("minimal", True), "minimal=True", "--minimal"),
        (Asked("units", None), "units=None", "no --units"),
        (Asked("units", [32, 16]), "units=[32, 16]", "--units 32,16"),
        (Asked("activation", "relu"), "activation='relu'", "--activation relu"),
        (Asked("keys"), "keys=", "--keys"),
        (Asked("slice", "random", "(origin, u, v)"), "slice=(origin, u, v)", "--slice random"),
    ],
    ids=str,
)
def test_a_parameter_is_spelled_for_python_and_as_an_option(asked, said, typed):
    assert (str(asked), option(asked)) == (said, typed)


def test_only_what_is_marked_as_a_parameter_is_said_as_an_option():
    error = mo.UnsupportedModel("opset=3 and\nmore  eps=1; give ", Asked("output"), " here")
    assert str(error) == "opset=3 and more eps=1; give output= here"
    assert failure(error) == ("opset=3 and more eps=1; give --output here", 4)
    assert failure(ValueError("a\nb")) == ("a b", 2)


def test_what_is_advised_for_a_box_can_be_typed():
    for box in (mo.Box(-1, 1), mo.Box([0, 0], [1, 2]), mo.Box([0, -1], [1, 2])):
        again = _domain(option(Asked("on", box)).removeprefix("--on "))
        wanted = box.of_dimension(2)
        assert np.array_equal(again.of_dimension(2).low, wanted.low)
        assert np.array_equal(again.of_dimension(2).high, wanted.high)


def test_what_draws_is_looked_for_before_the_work(monkeypatch, tmp_path):
    from moduli.interface.cli_support import MODEL, PICTURE

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(mo.MissingExtra, match="pip install 'moduli\\[plot\\]'"):
        PICTURE.convert(str(tmp_path / "p.svg"), None, None)
    assert MODEL.convert(str(tmp_path / "m.onnx"), None, None) == str(tmp_path / "m.onnx")
