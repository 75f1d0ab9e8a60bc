"""Shared words are looked at before the work, and what is not given is not looked at."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import moduli as mo
from moduli.common.arguments import WORDS, checked, question
from moduli.formats.reading import concerning, fitted

ALLOWED = {
    "budget": [0, 10_000, np.int64(3)], "seed": [0, np.int32(3), np.random.default_rng(0)],
    "eps": [0, 0.5, np.float64(1), float("inf")], "radius": [0.0], "tol": [0.1],
    "units": [3, [3, 2], np.array([3, 2])], "on": [mo.Box(0, 1), mo.Gaussian(), mo.Samples([[1.0]])],
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed(name):
    for value in ALLOWED[name]:
        checked(name, value, WORDS[name])


def test_executors_and_callables():
    with ThreadPoolExecutor(1) as pool:
        checked("executor", pool, WORDS["executor"])
    checked("progress", print, WORDS["progress"])


def test_a_long_value_is_named_by_its_type():
    with pytest.raises(mo.ArgumentError, match=r"^on=ndarray: "):
        checked("on", np.zeros(100), WORDS["on"])


def test_none_is_allowed_where_the_annotation_says_so():
    @question
    def ask(net: object, *, eps: float | None = None, radius: float = 0.0) -> object:
        return eps

    assert ask(1, eps=None) is None
    with pytest.raises(mo.ArgumentError, match=r"radius=None: a number is needed"):
        ask(1, radius=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        ask(1, other=2)  # type: ignore[call-arg]


def test_the_four_are_for_some_kinds_of_sources():
    net = mo.load("zoo:digits-plain")
    assert concerning(net) == concerning("a.npz") == concerning("a.nnet.gz") == frozenset()
    assert concerning("A.PTH") == concerning("a.safetensors") == {"activation", "keys"}
    assert concerning("a.onnx.gz") == concerning("a.keras") == {"output", "input_shape"}
    assert concerning([(1, 2)]) == {"activation"}
    assert len(concerning("what.unknown")) == 4
    assert fitted([net, "a.pth"], {"keys": ["a"], "output": None}) == [{}, {"keys": ["a"]}]


@pytest.mark.parametrize("name", ["shrink", "fit", "prune_dead"])
def test_torch_users_get_the_same_messages(name):
    torch = pytest.importorskip("torch")
    from moduli import pytorch

    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    word = {
        "shrink": {"seed": "x", "units": 2},
        "fit": {"seed": -1},
        "prune_dead": {"budget": None},
    }
    more = [torch.zeros(4, 1)] if name == "fit" else []
    with pytest.raises(mo.ArgumentError, match="needed"):
        getattr(pytorch, name)(net, torch.zeros(4, 2), *more, **word[name])


def test_errors_are_one_line_in_notebooks():
    error = mo.ArgumentError("a", " b")
    assert error._render_traceback_() == ["ArgumentError: a b"]


def test_a_missing_file_is_one_line_in_a_notebook():
    for ask in (mo.load, mo.rank):
        with pytest.raises(FileNotFoundError) as caught:
            ask("nothing.onnx")
        (line,) = caught.value._render_traceback_()
        assert line.startswith("FileNotFoundError: ")
        assert "nothing.onnx" in line
