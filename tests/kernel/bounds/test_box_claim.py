"""A box with signs: what is read, what is proved, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import moduli as mo
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.errors import CertificateRejected

NET = mo.Network.mlp(
    [[1.0], [1.0], [-1.0]], [1.0, 0.0, -2.0], [[1.0, 1.0, 1.0]], [0.0], activation="relu"
)
TRUE = Region((-1.0,), (1.0,), (-1,), ((1, 0, -1),))


def test_true_signs_are_proved_and_the_network_stays():
    assert TRUE.verify(NET) == NET
    assert Region.from_json(json.loads(json.dumps(TRUE.to_json()))) == TRUE


@pytest.mark.parametrize("unit", range(3))
@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_a_sign_is_proved_if_and_only_if_it_is_true(unit, sign):
    """Of one layer bounds are exact: z = x + 1, x and -x - 2 on [-1, 1]."""
    signs = [0, 0, 0]
    signs[unit] = sign
    claim = Region((-1.0,), (1.0,), (-1,), (tuple(signs),))
    if sign in ((0, 1), (0,), (0, -1))[unit]:
        claim.verify(NET)
    else:
        with pytest.raises(CertificateRejected, match=f"unit {unit} of layer 1 is not proved"):
            claim.verify(NET)


def test_a_box_of_another_network():
    with pytest.raises(CertificateRejected, match="2 inputs, the network 1"):
        Region((0.0, 0.0), (1.0, 1.0), (-1,), ((0, 0, 0),)).verify(NET)
    with pytest.raises(CertificateRejected, match="claims"):
        Region((0.0,), (1.0,), (-1,), ((0,),)).verify(NET)


def test_ends_upside_down_below_the_reader_too():
    with pytest.raises(
        CertificateRejected, match=r"the box of the certificate: low 1\.0 exceeds high 0\.0"
    ):
        Region((1.0,), (0.0,), (-1,), ((0, 0, 0),)).verify(NET)


@pytest.mark.parametrize(
    "change",
    [
        {"low": [2.0]},
        {"low": [0.0, 0.0]},
        {"low": "x"},
        {"high": [float("inf")]},
        {"high": [None]},
        {"tree": [0.5]},
        {"tree": {}},
        {"signs": [[2, 0, 0]]},
        {"signs": [[True, 0, 0]]},
        {"signs": [0]},
        {"signs": [[0.0]]},
        {"cases": {}},
        {"more": 1},
    ],
)
def test_malformed_claims_are_refused(change):
    with pytest.raises(CertificateRejected):
        Region.from_json({**TRUE.to_json(), **change})


def test_what_a_box_is():
    wide = Region((-1.0,) * 5, (2.0, 2.0, 2.0, 2.0, -1.0), (-1,), ())
    assert str(wide) == "[-1.0, 2.0] x [-1.0, 2.0] x [-1.0, 2.0] x ... (5 inputs)"
    assert wide.flat
    assert not TRUE.flat
    assert wide.radius.tolist() == [2, 2, 2, 2, 1]
    assert np.array_equal(wide.box.low, wide.low)
