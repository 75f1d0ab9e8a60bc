"""`.nnet` in and out: a text format for ReLU networks, in the dialects that are found.

    // comments
    layers, inputs, outputs, largest layer
    sizes of all layers, from the inputs on
    a flag
    minima of the inputs, maxima, means, ranges      (the last two also hold one number for all outputs)
    rows of the first weight matrix, its biases one a line, the second matrix, ...

What is found beside this: bounds of more inputs than the network has (the last of them are none of
its inputs), no means and ranges of outputs, header lines left out, single zeros in the place of
bounds, and the number of outputs written twice in the sizes. How many numbers the sizes need says
where the header ends; a header of another length than five is believed only where every line after
it has the length that the sizes demand. Whatever is not used is noted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from moduli.kernel.box import Frame
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.network import Network
from moduli.kernel.slack import Slack

Array = np.ndarray[Any, np.dtype[np.float64]]
HEADER = 5  # lines between the sizes and the weights
FIVE = "five lines: flag, minima, maxima, means, ranges"
FAR = sys.float_info.max


# Reading --------------------------------------------------------------------------------------------------------


def read_nnet(data: bytes, where: str) -> Network:
    """The network of a file, in its normalised coordinates; `Network.frame` holds the physical
    ones.

    Raises:
        UnsupportedModel: no such file, numbers that do not fit the sizes, or a header that can be
            read in two ways.
    """
    reading = _Reading(where, _rows(data, where))
    sizes = reading.sizes()
    header, flat = reading.split(sizes)
    arrays, at = list[Array](), 0
    for n, m in pairwise(sizes):
        arrays += [flat[at : at + m * n].reshape(m, n), flat[at + m * n : at + m * (n + 1)]]
        at += m * (n + 1)
    net = Network.mlp(*arrays, activation="relu")
    frame = reading.frame(header, sizes[0])
    return replace(net, frame=frame, notes=tuple(reading.notes))


def _rows(data: bytes, where: str) -> list[list[str]]:
    """The numbers of every line that holds some, as text; comments may be in any encoding."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnsupportedModel(f"{where} is text in UTF-16; save it as UTF-8")
    rows = []
    for k, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        bare = line.partition(b"//")[0]
        if (
            b"_" in bare or not bare.isascii()
        ):  # which Python would take for digits, or in their midst
            raise UnsupportedModel(
                f"{where}: line {k} holds no numbers: {bare[:40].decode(errors='replace')!r}"
            )
        tokens = [token for token in re.split(r"[,\s]+", bare.decode()) if token]
        if tokens:
            rows.append(tokens)
    return rows


@dataclass
class _Reading:
    """The lines of a file, and what was left unused of them."""

    where: str
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def sizes(self) -> list[int]:
        """Inputs, hidden widths, outputs; the number of outputs may be there twice."""
        if len(self.rows) < 2:
            raise UnsupportedModel(
                f"{self.where}: {len(self.rows)} lines; a .nnet file has two of sizes, a header of {HEADER}, and weights"
            )
        first, sizes = (list(map(self._whole, row)) for row in self.rows[:2])
        if len(first) < 3:
            raise UnsupportedModel(
                f"{self.where}: the first line is {first}; layers, inputs, outputs and the largest layer are needed"
            )
        depth, inputs, outputs = first[:3]
        repeated = len(sizes) == depth + 2 and sizes[-1] == sizes[-2] == outputs
        if repeated:
            sizes = sizes[:-1]
        if len(sizes) != depth + 1 or sizes[0] != inputs or sizes[-1] != outputs or min(sizes) < 0:
            raise UnsupportedModel(
                f"{self.where}: {depth} layers, {inputs} inputs, {outputs} outputs do not fit the sizes {sizes}"
            )
        if repeated:
            self.notes.append(
                f"the sizes name the {outputs} outputs twice; there are {depth} layers"
            )
        return sizes

    def split(self, sizes: list[int]) -> tuple[list[list[float]], Array]:
        """The lines of the header, and all weights and biases."""
        body = self.rows[2:]
        needed = sum(m * (n + 1) for n, m in pairwise(sizes))
        counts = [len(row) for row in body]
        stored, start = sum(counts), 0
        while stored > needed and start < len(body):
            stored -= counts[start]
            start += 1
        header, layers = body[:start], body[start:]
        fits = stored == needed
        if fits and start != HEADER:
            fits = counts[start:] == list(_lengths(sizes))
        if not fits:
            stored = sum(counts[HEADER:])
            raise UnsupportedModel(
                f"{self.where}: the sizes {sizes} need {needed} weights and biases, but {stored} are stored after a header "
                f"of {HEADER} lines; where header lines are left out, every later line must be one row of a matrix, or one bias"
            )
        flat = np.array([self._real(token) for row in layers for token in row], dtype=np.float64)
        return [list(map(self._real, row)) for row in header], flat

    def frame(self, header: list[list[float]], inputs: int) -> Frame | None:
        """The physical coordinates, from the lines between the sizes and the weights; None where
        there are none.
        """
        flagged = len(header) % 2 == 1
        rows = header[1:] if flagged else header
        unclear = f"{self.where}: a header of {len(header)} lines, of lengths {[len(row) for row in header][:8]}"
        if (flagged and len(header[0]) != 1) or len(rows) not in (0, 2, 4):
            raise UnsupportedModel(f"{unclear}; write {FIVE}")
        if len(header) != HEADER and inputs == 1 and rows:
            raise UnsupportedModel(
                f"{unclear}, for one input can be read in two ways; write {FIVE}"
            )
        if flagged and header[0] != [0.0]:
            self.notes.append(f"the flag {header[0][0]:g} of the header is not used")
        if not any(number for row in rows for number in row):
            held = (
                "holds zeros for bounds, means and ranges"
                if rows
                else "holds no bounds, means and ranges"
            )
            self.notes.append(f"the header {held}: inputs and outputs are taken as they are")
            return None
        if len(rows) == 2:
            self.notes.append(
                "the header holds no means and ranges: inputs and outputs are taken as they are"
            )
            rows = [*rows, [0.0] * (inputs + 1), [1.0] * (inputs + 1)]
        if rows[:2] == [[0.0], [0.0]] and inputs > 1:
            self.notes.append(
                f"the header holds zeros for bounds: the means {_shown(rows[2])} and ranges {_shown(rows[3])} are not used"
            )
            return None
        return self._coordinates(rows, inputs)

    def _coordinates(self, rows: list[list[float]], inputs: int) -> Frame | None:
        """Minima, maxima, means and ranges, of this many inputs or more."""
        lengths = [len(row) for row in rows]
        bounds, scales = lengths[0], lengths[2]
        further = bounds - inputs
        outputs = scales in (
            inputs + 1,
            bounds + 1,
        )  # whether the last mean and range are those of the outputs
        unclear = further == 1 and scales == bounds  # the last is one input more, or the outputs
        known = outputs or scales in (inputs, bounds)
        if lengths != [bounds, bounds, scales, scales] or further < 0 or unclear or not known:
            raise UnsupportedModel(
                f"{self.where}: minima, maxima, means and ranges of lengths {lengths}; for {inputs} inputs "
                f"{[inputs, inputs, inputs + 1, inputs + 1]} are needed"
            )
        if further or scales > inputs + 1:
            self.notes.append(
                f"the header has {bounds} minima and maxima, {scales} means and ranges for {inputs} inputs: the first {inputs} "
                f"of each are used{', and the last mean and range for the outputs' if outputs else ''}"
            )
        if not outputs:
            self.notes.append(
                "the header holds no mean and range of the outputs: they are taken as they are"
            )
        low, high, mean, scale = (np.array(row[:inputs]) for row in rows)
        out_mean, out_scale = (rows[2][-1], rows[3][-1]) if outputs else (0.0, 1.0)
        used = np.concatenate([low, high, mean, scale, [out_mean, out_scale]])
        if not (np.isfinite(used).all() and (scale > 0).all() and out_scale > 0):
            raise UnsupportedModel(
                f"{self.where}: ranges {_shown(rows[3])} and the other rows of the header must be finite, ranges positive"
            )
        if (low == -FAR).all() and (high == FAR).all():
            return None
        frame = Frame(low, high, mean, scale, out_mean, out_scale)
        _ = frame.box  # refuses bounds that are none
        return frame

    def _whole(self, token: str) -> int:
        """A size; some writers give it a decimal point."""
        number = self._real(token)
        if not number.is_integer():
            raise UnsupportedModel(
                f"{self.where}: {token[:40]} is no size; whole numbers are needed"
            )
        return int(number)

    def _real(self, token: str) -> float:
        try:
            return float(token)
        except ValueError:
            raise UnsupportedModel(
                f"{self.where}: malformed, {token[:40]!r} is no number"
            ) from None


def _lengths(sizes: list[int]) -> Iterator[int]:
    """How many numbers each line holds: a row of weights, or one bias."""
    for n, m in pairwise(sizes):
        yield from [n] * m if n else []
        yield from [1] * m


def _shown(row: list[float], most: int = 6) -> str:
    """A few numbers in brackets."""
    return (
        f"[{', '.join(f'{number:g}' for number in row[:most])}{', ...' if len(row) > most else ''}]"
    )


# Writing --------------------------------------------------------------------------------------------------------


def nnet_bytes(net: Network, dtype: str, slack: Slack | None) -> bytes:
    """Without a frame: mean 0, range 1, and the largest floats as bounds, which `read_nnet` takes
    for no frame.
    """
    wrong = next((str(a) for a in net.activations if a.kind != "relu"), None)
    if wrong is not None or net.output_map != "identity":
        found = f"{wrong} units" if wrong is not None else f"{net.output_map} on the output"
        raise UnsupportedModel(
            f".nnet holds ReLU networks with affine output only, this one has {found}; write .onnx"
        )
    n, widths, frame = net.widths[0], net.widths, net.frame
    f = frame or Frame(np.full(n, -FAR), np.full(n, FAR), np.zeros(n), np.ones(n), 0.0, 1.0)
    header = [
        [len(net.layers), n, widths[-1], max(widths)], widths, [0], f.low.tolist(), f.high.tolist(),
        [*f.mean.tolist(), f.out_mean], [*f.scale.tolist(), f.out_scale],
    ]  # fmt: skip
    rows = [
        row
        for layer in net.layers
        for part in (layer.weight, layer.bias[:, None])
        for row in part.tolist()
    ]
    comment = "// written by moduli" + (f" in {dtype}; slack {slack}" if slack is not None else "")
    return "\n".join(
        [comment, *(",".join(map(repr, row)) + "," for row in [*header, *rows]), ""]
    ).encode()
