"""Dialects of `.nnet`: what is read as what, what is noted, and what is refused because it can be
read in two ways.
"""

from __future__ import annotations

import numpy as np
import pytest

from moduli.formats import load, save
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.network import Network

WEIGHTS = "1.0,2.0,\n-1.0,0.5,\n0.25,-0.75,\n0.1,\n0.2,\n-0.3,\n1.0,-1.0,2.0,\n0.5,\n"  # of 2-3-1
NET = Network.mlp(
    [[1.0, 2.0], [-1.0, 0.5], [0.25, -0.75]],
    [0.1, 0.2, -0.3],
    [[1.0, -1.0, 2.0]],
    [0.5],
    activation="relu",
)
SIZES = "2,2,1,3,\n2,3,1,\n"
STANDARD = "0,\n-1,-2,\n1,2,\n0.5,0,4,\n2,1,8,\n"


def read(tmp_path, text, name="a.nnet"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(tmp_path / name)


def frame(net):
    f = net.frame
    rows = [row.tolist() for row in (f.low, f.high, f.mean, f.scale)]
    return [*rows, f.out_mean, f.out_scale]


OWN = [[-1, -2], [1, 2], [0.5, 0], [2, 1], 4, 8]


def test_the_standard_dialect_has_nothing_to_note(tmp_path):
    net = read(tmp_path, SIZES + STANDARD + WEIGHTS)
    assert net == NET
    assert frame(net) == OWN
    assert net.notes == ()


TEXTS = {
    "comments in UTF-8": "// Réseau de contrôle\n" + SIZES + "// größte\n" + STANDARD + WEIGHTS,
    "a byte order mark": "\ufeff" + SIZES + STANDARD + WEIGHTS,
    "comments in Latin-1": "// Réseau\n".encode("latin-1") + (SIZES + STANDARD + WEIGHTS).encode(),
    "lines of Windows": (SIZES + STANDARD + WEIGHTS).replace("\n", "\r\n"),
    "lines of old computers": (SIZES + STANDARD + WEIGHTS).replace("\n", "\r"),
    "no last line end": (SIZES + STANDARD + WEIGHTS).rstrip(),
    "no commas at the end": (SIZES + STANDARD + WEIGHTS).replace(",\n", "\n"),
    "blanks": (SIZES + STANDARD + WEIGHTS).replace(",", " \t"),
    "comments and empty lines between": (SIZES + STANDARD + WEIGHTS).replace(
        "\n", "  // here\n\n  // there\n"
    ),
    "all weights in one line": SIZES + STANDARD + WEIGHTS.replace("\n", ""),
    "sizes with a point": SIZES.replace("2,3,1,", "2.0,3.0,1.0,") + STANDARD + WEIGHTS,
    "no largest layer": SIZES.replace("2,2,1,3,", "2,2,1") + STANDARD + WEIGHTS,
}


@pytest.mark.parametrize("name", TEXTS)
def test_ways_to_write_the_same(tmp_path, name):
    net = read(tmp_path, TEXTS[name], "A.NNet")
    assert net == NET
    assert frame(net) == OWN
    assert net.notes == ()


ZEROS = (
    "the header holds zeros for bounds, means and ranges: inputs and outputs are taken as they are"
)
DIALECTS = {
    "bounds of more inputs": (
        SIZES,
        "0\n-1,-2,7,8\n1,2,9,9\n0.5,0,7,7,4\n2,1,7,7,8\n",
        OWN,
        "the header has 4 minima and maxima, 5 means and ranges for 2 inputs: the first 2 of each are used, and the last mean "
        "and range for the outputs",
    ),
    "only bounds of more inputs": (
        SIZES,
        "0\n-1,-2,7,8\n1,2,9,9\n0.5,0,4\n2,1,8\n",
        OWN,
        "the header has 4 minima and maxima, 3 means and ranges for 2 inputs: the first 2 of each are used, and the last mean "
        "and range for the outputs",
    ),
    "no mean and range of outputs": (
        SIZES,
        "0\n-1,-2\n1,2\n0.5,0\n2,1\n",
        [*OWN[:4], 0, 1],
        "the header holds no mean and range of the outputs: they are taken as they are",
    ),
    "no means and ranges": (
        SIZES,
        "0\n-1,-2\n1,2\n",
        [*OWN[:2], [0, 0], [1, 1], 0, 1],
        "the header holds no means and ranges: inputs and outputs are taken as they are",
    ),
    "no flag": (SIZES, STANDARD[3:], OWN, None),
    "a flag": (SIZES, "1" + STANDARD[1:], OWN, "the flag 1 of the header is not used"),
    "single zeros": (SIZES, "0\n0\n0\n0\n0\n", None, ZEROS),
    "fewer single zeros": (SIZES, "0\n0\n0\n", None, ZEROS),
    "zeros all over": (SIZES, "0\n0,0\n0,0\n0,0,0\n0,0,0\n", None, ZEROS),
    "single zeros for bounds": (
        SIZES,
        "0\n0\n0\n0.5,0,4\n2,1,8\n",
        None,
        "the header holds zeros for bounds: the means [0.5, 0, 4] and ranges [2, 1, 8] are not used",
    ),
    "no header": (
        SIZES,
        "",
        None,
        "the header holds no bounds, means and ranges: inputs and outputs are taken as they are",
    ),
    "outputs twice in the sizes": (
        "2 2 1 3\n2 3 1 1\n",
        STANDARD,
        OWN,
        "the sizes name the 1 outputs twice; there are 2 layers",
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects_are_read_and_noted(tmp_path, name):
    sizes, header, expected, note = DIALECTS[name]
    net = read(tmp_path, sizes + header + WEIGHTS)
    assert net == NET
    assert net.notes == (() if note is None else (note,))
    assert (None if net.frame is None else frame(net)) == expected
    again = load(save(net, tmp_path / "again.nnet"))
    assert again == net
    assert (None if again.frame is None else frame(again)) == expected
    assert again.notes == ()


REFUSED = {
    "one more input, or the outputs": (
        SIZES,
        "0\n-1,-2,7\n1,2,9\n0.5,0,4\n2,1,8\n",
        "of lengths [3, 3, 3, 3]; for 2 inputs [2, 2, 3, 3]",
    ),
    "fewer bounds": (SIZES, "0\n-1\n1\n0.5,0,4\n2,1,8\n", "of lengths [1, 1, 3, 3]"),
    "minima without maxima": (SIZES, "0\n-1,-2\n1\n0.5,0,4\n2,1,8\n", "of lengths [2, 1, 3, 3]"),
    "ranges left out": (SIZES, "0\n-1,-2\n1,2\n0.5,0,4\n", "of lengths [1, 2, 2, 3]"),
    "no flag, but three lines": (
        SIZES,
        "-1,-2\n1,2\n0.5,0\n",
        "a header of 3 lines, of lengths [2, 2, 2]; write five lines",
    ),
    "six lines": (SIZES, "0\n" + STANDARD, "a header of 6 lines"),
    "seven lines": (SIZES, "0\n0\n" + STANDARD, "a header of 7 lines"),
    "single ranges": (SIZES, "0\n-1,-2\n1,2\n0\n1\n", "of lengths [2, 2, 1, 1]"),
    "a range that is zero": (SIZES, "0\n-1,-2\n1,2\n0.5,0,4\n2,0,8\n", "ranges positive"),
    "outputs thrice in the sizes": (
        "2,2,1,3\n2,3,1,1,1\n",
        STANDARD,
        "do not fit the sizes [2, 3, 1, 1, 1]",
    ),
    "a hidden size twice": ("2,2,1,3\n2,3,3,1\n", STANDARD, "do not fit the sizes [2, 3, 3, 1]"),
    "a size that is none": ("2,2,1,3\n2,2.5,1\n", STANDARD, "2.5 is no size"),
    "a short first line": ("2\n2,3,1\n", STANDARD, "the first line is [2]"),
    "digits of another script": ("2,2,1,3\n2,\uff13,1\n", STANDARD, "line 2 holds no numbers"),
    "text between": (SIZES, "# bounds\n" + STANDARD, "'#' is no number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_dialect_is_refused(tmp_path, name):
    sizes, header, said = REFUSED[name]
    with pytest.raises(UnsupportedModel) as caught:
        read(tmp_path, sizes + header + WEIGHTS)
    assert said in str(caught.value)
    assert "a.nnet" in str(caught.value)


def test_one_input_and_a_short_header_can_be_read_in_two_ways(tmp_path):
    """A header line and a row of weights look alike: one number."""
    sizes, weights = "1,1,1,1\n1,1\n", "3\n4\n"
    assert read(tmp_path, sizes + "0\n-1\n1\n0,0\n1,1\n" + weights).layers[0].weight.tolist() == [
        [3]
    ]
    for header in ("0\n-1\n1\n0\n", "-1\n1\n0,0\n1,1\n", "0\n-1\n1\n", "-1\n1\n"):
        with pytest.raises(
            UnsupportedModel, match=r"can be read in two ways; write five lines|need 2 weights"
        ):
            read(tmp_path, sizes + header + weights)


@pytest.mark.parametrize(
    "header", [STANDARD, "0\n0\n0\n0\n0\n", "0\n-1,-2\n1,2\n0,0\n1,1\n", "", STANDARD[3:]]
)
def test_a_number_too_few_or_too_many_never_moves_the_header(tmp_path, header):
    """The sizes say where the header ends; a line that is lost must not make a header line a row of
    weights.
    """
    lines = WEIGHTS.splitlines()
    for k in range(len(lines)):
        for changed in (lines[:k] + lines[k + 1 :], [*lines[:k], lines[k], *lines[k:]]):
            with pytest.raises(UnsupportedModel):
                read(tmp_path, SIZES + header + "\n".join(changed))


def test_text_in_utf_16_is_named(tmp_path):
    with pytest.raises(UnsupportedModel, match="is text in UTF-16; save it as UTF-8"):
        read(tmp_path, (SIZES + STANDARD + WEIGHTS).encode("utf-16"))


def test_the_normalised_box_uses_the_first_inputs(tmp_path):
    net = read(tmp_path, SIZES + DIALECTS["bounds of more inputs"][1] + WEIGHTS)
    assert np.array_equal(net.frame.box.low, [-0.75, -2])
    assert np.array_equal(net.frame.box.high, [0.25, 2])
