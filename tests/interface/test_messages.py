"""Golden messages: what commands print at 80 columns, answers and mistakes, word for word.

Whoever changes a message looks at the difference and writes the file anew:
`python tests/interface/test_messages.py > tests/interface/messages.txt` (from the root, with `src` on the path).
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moduli as mo
from moduli.interface.cli import cli
from moduli.interface.cli_support import failure

GOLDEN = Path(__file__).with_name("messages.txt")
COMMANDS = """
moduli info twins.npz
moduli compress twins.npz -o small.npz
moduli check small.npz.cert.json small.npz twins.npz --on all --max-slack 0 --minimal
moduli check small.npz.cert.json small.npz twins.npz --on all --max-slack -1
moduli check small.npz.cert.json small.npz plain.npz
moduli compress plain.npz -o none.npz
moduli compress ramps.npz -o box.npz --on box:-1,1
moduli compress ramps.npz -o box.npz --on box:two.vnnlib
moduli check box.npz.cert.json box.npz ramps.npz --on all
moduli compress bends.npz -o same.npz --on box:-1,1
moduli rank twins.npz
moduli rank twins.npz --radius 0.25
moduli curve plain.npz --radii 0,1,3
moduli equal twins.npz small.npz
moduli equal plain.npz other.npz
moduli equal plain.npz other.npz --on box:0,0
moduli distance plain.npz plain.npz --on box:-1,1
moduli identify twins.npz --on box:-1,1
moduli canon twins.npz -o normal.npz
moduli compress plain.npz -o student.npz --units 1
moduli compress plain.npz -o plain.npz
moduli compress plain.npz -o plain.txt
moduli compress plain.npz
moduli compress plain.npz -o o.npz --on nowhere
moduli compress plain.npz -o o.npz --on box:1,-1
moduli compress plain.npz -o o.npz --eps 0.1
moduli rank plain.npz --on gaussian
moduli rank nothing.npz
moduli rank plain.np
moduli rank plain.npz --budget x
moduli rank plain.npz --activation tanh
moduli equal plain.npz twins.npz --keys a,b
moduli equal plain.npz wide.npz
moduli plot plain.npz --on box:-1,1 -o o.svg
moduli complexity 3,2,1 --output y
moduli compress plain.npz -o o.npz --no-biases
moduli compress plain.npz -o o.npz --starts 3
moduli dimension 2,2,1 --activation relu
moduli identify 2,2,1 --keys a
moduli train digits -o o.onnx --annealed
moduli train digits -o o.onnx --sigma 0.1
moduli report plain.npz -o page.txt
moduli nothing
"""


def write_files() -> None:
    one = [[1.0], [1.0]]
    files = {
        "twins": mo.Network.mlp(one, [0.5, 0.5], [[1.0, 2.0]], [0.0]),
        "plain": mo.Network.mlp([[1.0], [2.0]], [0.0, 1.0], [[1.0, 1.0]], [0.0]),
        "other": mo.Network.mlp([[1.0], [2.0]], [0.0, 1.0], [[1.0, 1.5]], [0.0]),
        "wide": mo.Network.mlp([[1.0, 0.0]], [0.0], [[1.0]], [0.0]),
        "bends": mo.Network.mlp(one, [0.0, -0.5], [[1.0, 1.0]], [0.0], activation="relu"),
        "ramps": mo.Network.mlp(
            [[1.0], [1.0], [-1.0]], [0.0, 2.0, -3.0], [[1.0, 2.0, 3.0]], [0.0], activation="relu"
        ),
    }
    for name, net in files.items():
        mo.save(net, f"{name}.npz")
    Path("two.vnnlib").write_text(
        "(declare-const X_0 Real)\n(assert (or (and (>= X_0 0) (<= X_0 1)) (and (>= X_0 2) (<= X_0 2.5))))\n"
    )


def printed(line: str) -> str:
    """What a command prints, and its exit code where that is not 0."""
    import click
    from click.testing import CliRunner

    done = CliRunner(env={"COLUMNS": "80"}).invoke(
        cli, shlex.split(line)[1:], standalone_mode=False
    )
    said, code = done.stdout, done.exit_code
    if isinstance(done.exception, click.exceptions.Exit):
        code = done.exception.exit_code
    elif done.exception is not None and not isinstance(done.exception, SystemExit):
        message, code = failure(done.exception)
        said += f"moduli: {message}\n"
    return f"$ {line}\n{said}" + (f"[{code}]\n" if code else "")


def everything() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            write_files()
            return [printed(line) for line in COMMANDS.strip().splitlines()]
        finally:
            os.chdir(before)


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return {text.partition("\n")[0]: text for text in everything()}


def golden() -> dict[str, str]:
    parts = re.findall(r"(?ms)^\$ .*?(?=^\$ |\Z)", GOLDEN.read_text())
    return {text.partition("\n")[0]: text for text in parts}


@pytest.mark.parametrize("line", COMMANDS.strip().splitlines())
def test_a_message_is_as_it_was(found, line):
    assert found[f"$ {line}"] == golden()[f"$ {line}"]


def test_nothing_is_golden_that_is_not_asked():
    assert list(golden()) == [f"$ {line}" for line in COMMANDS.strip().splitlines()]


@pytest.mark.parametrize("line", COMMANDS.strip().splitlines())
def test_a_message_fits_the_terminal_and_is_not_padded(found, line):
    for row in found[f"$ {line}"].splitlines()[1:]:
        assert row == row.rstrip()
        assert len(row) <= 80 or row.startswith("moduli: ")


def test_students_say_where_a_linear_map_is_closer():
    """On 1e-3 x a tanh unit is nearly linear, and one that is not is worse than no unit."""
    from dataclasses import replace

    from moduli.compression.average.students import Error

    net = mo.Network.mlp([[1.0], [2.0]], [0.0, 1.0], [[1.0, 1.0]], [0.0])
    small: Any = mo.compress(net, on=mo.Gaussian(), units=1)
    worse = replace(small, linear=Error(small.error.absolute / 2, small.error.relative / 2))
    assert worse.worse_than_linear
    assert worse.statement.endswith("a linear map without any unit is closer")
    better = replace(small, linear=Error(small.error.absolute * 2, small.error.relative * 2))
    assert "closer" not in better.statement


def test_a_witness_far_out_asks_for_a_box():
    a = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="relu")
    b = mo.Network.mlp([[1.0]], [-1e6], [[1.0]], [0.0], activation="relu")
    refuted = mo.equivalent(a, b, eps=1e5)
    assert refuted.status == "refuted"
    far = max(map(abs, refuted.witness.input))
    assert ("to go further" in dict(refuted.rows())) == (far > 1000)
    assert "to go further" not in dict(mo.equivalent(a, b, on=mo.Box(-1, 1)).rows())


def test_hulls_are_named(tmp_path):
    text = "(declare-const X_0 Real)(assert (or (and (>= X_0 0) (<= X_0 1)) (and (>= X_0 2) (<= X_0 3))))"
    (tmp_path / "two.vnnlib").write_text(text)
    box = mo.Box.from_vnnlib(tmp_path / "two.vnnlib")
    net = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="relu")
    small = mo.compress(net, on=box)
    assert "hull of 2 boxes" in small.statement
    assert "hull of 2 boxes" in dict(small.rows())["on"]
    assert np.allclose([small.on.low, small.on.high], [[0], [3]])


if __name__ == "__main__":
    print("".join(everything()), end="")
