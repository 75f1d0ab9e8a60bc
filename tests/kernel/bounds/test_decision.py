"""Decisions on a box are proved anew: which output, in which network, where."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nearly_equal import network, noisy

import moduli as mo
from moduli.kernel.bounds.decision import Decision, margins

BOX = mo.Box(-1, 1)


def test_a_forged_decision_is_rejected():
    a = network(4, 8, 3, lead=12.0)
    answer = mo.equivalent(a, noisy(a), on=BOX, decision=True)
    honest = answer.decided
    low = replace(honest.a, signs=(*honest.a.signs[:-1], (1, 0)))
    for wrong in (
        replace(honest, winner=1), replace(honest, winner=3), replace(honest, winner=True), replace(honest, a=low),
        replace(honest, a=replace(honest.a, signs=())), replace(honest, b=replace(honest.b, low=(0.0,) * 4)),
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            replace(answer, decided=wrong).check()

    class Blind(Decision):
        def verify(self, a, b, box):
            return None

    with pytest.raises(mo.CertificateRejected):
        replace(answer, a=network(4, 8, 3), decided=Blind(0, honest.a, honest.b)).check()


def test_networks_of_other_outputs_are_rejected():
    a = network(4, 8, 3, lead=12.0)
    honest = mo.equivalent(a, noisy(a), on=BOX, decision=True).decided
    with pytest.raises(mo.CertificateRejected, match="as many outputs"):
        honest.verify(a, network(4, 8, 2, lead=12.0), BOX)


def test_margins_are_strict():
    """Equal outputs have margin 0, which is not enough."""
    tie = mo.Network.mlp([[1.0]], [0.0], [[1.0], [1.0]], [0.0, 0.0], activation="relu")
    box = mo.Box(-1, 1).of_dimension(1)
    ahead = margins(tie, 0)
    region = mo.compress(ahead, on=box).certificate.region
    claim = replace(
        region, signs=(*((0,) * n for n in ahead.widths[1:-2]), (1,)), tree=(-1,), cases=()
    )
    with pytest.raises(mo.CertificateRejected):
        Decision(0, claim, claim).verify(tie, tie, box)
