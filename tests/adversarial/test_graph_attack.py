"""Mutants of random graphs and of certificates about them, briefly;
`python -m tests.adversarial.graph_attack --count N` tries more.
"""

from __future__ import annotations

import graph_attack as attack
import many_seeds
import pytest


def require_none(total, count):
    assert not many_seeds.wrong(total), total
    assert total["taken"] > 0.2 * count, "an attack of which all is refused teaches nothing"
    assert total["refused"] > 0.2 * count, total


def test_some_mutants():
    require_none(attack.run(range(60), 10), 60)


@pytest.mark.slow
def test_thousands_of_mutants():
    require_none(attack.run(range(10_000, 10_100), 30), 100)


def test_a_careless_rule_is_found(monkeypatch):
    # the products that a removal leaves out are not looked at
    from moduli.kernel.graph import removal

    monkeypatch.setattr(removal, "_absorbed", lambda *_: None)
    total = attack.run(range(12), 10)
    assert any(kind.startswith("FINDING mutant") for kind in total), total
