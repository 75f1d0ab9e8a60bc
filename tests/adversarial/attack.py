"""Forged certificates, guided by the kernel's own lines: python tests/adversarial/attack.py
--mutants 100000 [--seconds 600] [--seed 0]

A mutant changes a true certificate, or its networks, in ways that mean something; digests are made
to match. It stays in the pool if it is accepted, reaches a new line of the kernel, or is refused
for a new reason. Where moves are accepted, the least slack that `verify` would let pass is claimed,
and minimality too if that passes: both must be true (`forgeries`, the oracles).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import json
import math
import re
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import forgeries
import numpy as np
from forgeries import Case

import moduli as mo
from moduli.kernel import certificate as kernel
from moduli.kernel import rules

PLAIN = {
    "__init__",
    "errors",
    "activations",
    "network",
    "box",
}  # data: no forged claim goes through these alone
KERNEL = {
    str(path) for path in Path(kernel.__file__).parent.rglob("*.py") if path.stem not in PLAIN
}
NUMBERS = (
    0.0,
    1.0,
    -1.0,
    0.5,
    5e-324,
    -5e-324,
    2.0**-537,
    1e41,
    -1e160,
    1e308,
    1.7976931348623157e308,
    2.0**31 - 1,
)
KINDS = ("merge", "constant", "drop", "permute", "tanh", "scale", "block", "skip", "inactive")
ODD = (
    "0/5",
    "-0",
    "00/1",
    "2/4",
    "1/01",
    "\uff11",
    "1/0",
    "7" * 700,
    f"1/{'9' * 700}",
    "1" + "0" * 700,
)
PARTS = ("large_moves", "small_moves", "near", "region", "changed", "apart", "creases")
WORDS = (*KINDS, "joint", "separate", "difference", "zonotopes", "weight", "bias")
POOL, FAR = 60, 1e300


class Lines:
    """The lines of the kernel that ran; functions of which all lines are known are not traced."""

    def __init__(self) -> None:
        self.left: dict[CodeType, set[int]] = {}
        self.new = 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if code.co_filename not in KERNEL:
            return None
        if code not in self.left:
            self.left[code] = {line for _, _, line in code.co_lines() if line is not None}
        if event == "line" and frame.f_lineno in self.left[code]:
            self.left[code].discard(frame.f_lineno)
            self.new += 1
        return self if self.left[code] else None


def number(rng: np.random.Generator, old: float) -> float:
    near = (
        math.nextafter(old, math.inf),
        math.nextafter(old, -math.inf),
        -old,
        2 * old,
        old / 2,
        old + 1,
    )
    new = (*near, float(rng.choice(NUMBERS)))[int(rng.integers(7))]
    return new if math.isfinite(new) else old


def rational(rng: np.random.Generator, old: str) -> str:
    if rng.random() < 0.05:
        return str(rng.choice(ODD))
    if old in ODD:
        return old
    q, kinds = (
        Fraction(old),
        (
            Fraction(number(rng, 1.0)),
            Fraction(1, 3),
            Fraction(2**31 - 1),
            Fraction(1, 2**31 - 1),
            Fraction(0),
        ),
    )
    new = (q + 1, -q, 2 * q, q / 2, q + Fraction(1, 2**60), *kinds)[int(rng.integers(10))]
    return str(new) if len(str(new)) < 600 else old


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Everything inside, as a container and a key."""
    for key, inner in (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    ):
        yield data, key
        yield from places(inner)


def anywhere(rng: np.random.Generator, data: dict[str, Any]) -> None:
    """Another value at some place; lists lose, double or swap entries."""
    inside = [part for name in PARTS for part in places(data.get(name))]
    if not inside:
        return
    box, key = inside[int(rng.integers(len(inside)))]
    old = box[key]
    if isinstance(old, bool) or old is None:
        box[key] = not old if isinstance(old, bool) else None
    elif isinstance(old, int):
        box[key] = int(rng.choice([old + 1, old - 1, 0, 1, -1, old + 10, 2 * old]))
    elif isinstance(old, float):
        box[key] = number(rng, old)
    elif isinstance(old, str):
        box[key] = (
            rational(rng, old)
            if re.fullmatch(r"-?[0-9]+(/[0-9]+)?", old)
            else str(rng.choice(WORDS))
        )
    elif isinstance(old, list) and old:
        at, other = rng.integers(len(old), size=2).tolist()
        way = rng.integers(4)
        if way == 0:
            del old[at]
        elif way == 1:
            old.insert(other, copy.deepcopy(old[at]))
        else:
            old[at], old[other] = old[other], old[at]


def invented(rng: np.random.Generator, case: Case) -> None:
    """A move that nobody proposed, on either side."""
    side, net = (("large_moves", case.large), ("small_moves", case.small))[int(rng.random() < 0.3)]
    layer = int(rng.integers(1, max(2, len(net.widths) - 1)))
    width = net.widths[min(layer, len(net.widths) - 2)] if len(net.widths) > 2 else 1
    units = rng.permutation(width)[: int(rng.integers(1, width + 1)) if width else 0].tolist()
    kind = str(rng.choice(KINDS))
    move: dict[str, Any] = {
        "move": kind,
        "layer": layer,
        "units": sorted(units) if kind == "skip" else units,
    }
    if kind == "merge":
        move["into"] = rng.integers(0, max(1, width), len(units)).tolist()
    if kind in ("merge", "scale"):
        move["ratio"] = rational(rng, str(rng.choice(["1", "-1", "2"])))
    if kind == "block":
        move["into"] = units[: int(rng.integers(len(units) + 1))]
        move["rows"] = [None] * len(move["into"])
        after = net.layers[layer].weight if layer < len(net.layers) else net.layers[-1].weight
        move["outgoing"] = [
            [str(Fraction(x)) for x in after[:, u % after.shape[1]]] for u in move["into"]
        ]
    case.data[side].insert(int(rng.integers(len(case.data[side]) + 1)), move)


def region(rng: np.random.Generator, case: Case) -> None:
    """A box where there was none, or without one, or larger, shifted, flat."""
    n, signs = (
        case.large.widths[0],
        [rng.integers(-1, 2, k).tolist() for k in case.large.widths[1:-1]],
    )
    found = case.data.get("region") or {
        "low": [-1.0] * n,
        "high": [1.0] * n,
        "tree": [-1],
        "signs": signs,
    }
    way, at = int(rng.integers(6)), int(rng.integers(n))
    if way == 0:
        case.data.pop("region", None)
        return
    if way == 1:
        found = {**found, "signs": signs}
    elif way == 2:
        found = {
            **found,
            "low": [
                q if rng.random() < 0.7 else p
                for p, q in zip(found["low"], found["high"], strict=False)
            ],
        }
    elif way == 3:
        found = {
            **found,
            "low": [x - 0.5 for x in found["low"]],
            "high": [x - 0.5 for x in found["high"]],
        }
    elif way == 4:
        found["tree"] = [at, *found["tree"], -1]
    case.data["region"] = found
    case.data.pop("near", None)


def case_of(rng: np.random.Generator, case: Case) -> None:
    """A sign, or a weight that plays no part, that nobody proved; or one that is there with other
    multipliers.
    """
    found = case.data.get("region")
    if not isinstance(found, dict) or len(case.large.widths) < 4:
        return
    layer = int(rng.integers(2, len(case.large.widths) - 1))
    unit, below = int(rng.integers(case.large.widths[layer])), sum(case.large.widths[1:layer])
    given = int(rng.integers(case.large.widths[layer - 1])) if rng.random() < 0.6 else -1
    sign = -1 if given >= 0 else int(rng.choice([-1, 1]))
    tree = [-1]
    for _ in range(int(rng.integers(3))):
        at = int(rng.choice([k for k, x in enumerate(tree) if x < 0]))
        tree[at : at + 1] = [int(rng.integers(below)), -1, -1]
    leaves = []
    for _ in range(tree.count(-1)):
        units = rng.permutation(below)[: int(rng.integers(below + 1))].tolist()
        leaves.append([units, [float(rng.choice([0.0, 0.5, 1.0, 2.0, -1.0, 1e9])) for _ in units]])
    new = {
        "layer": layer,
        "unit": unit,
        "sign": sign,
        "given": given,
        "tree": tree,
        "leaves": leaves,
    }
    cases = found.get("cases", [])
    if not isinstance(cases, list):
        return
    found["cases"] = [*cases, new] if given >= 0 else [new, *cases]
    if given < 0 and isinstance(found.get("signs"), list) and rng.random() < 0.8:
        with contextlib.suppress(IndexError, TypeError):
            found["signs"][layer - 1][unit] = sign


def guides(rng: np.random.Generator, case: Case) -> None:
    """Multipliers of any size in the leaves of a lower bound, which may hide no column."""
    near = case.data.get("near")
    outputs = case.large.widths[-1]
    for box, key in list(places(near)) if isinstance(near, dict) else []:
        leaf = box[key]
        if isinstance(leaf, dict) and "weights" in leaf:
            units = rng.permutation(case.large.units)[: int(rng.integers(1, 4))].tolist()
            sizes = np.ldexp(rng.random((len(units), 2, 2 * outputs)), rng.integers(-1074, 1025))
            sizes *= rng.random(sizes.shape) < 0.7
            finite = np.where(np.isfinite(sizes), sizes, 1.0).tolist()
            leaf["guides"] = [list(pair) for pair in zip(units, finite, strict=True)]


def parameter(rng: np.random.Generator, case: Case) -> None:
    """Another number in a network, perhaps one that stands elsewhere; in both networks where they
    are one.
    """
    name = "small" if rng.random() < 0.4 else "large"
    theta = getattr(case, name).flat().copy()
    at, other = rng.integers(len(theta), size=2) if len(theta) else (0, 0)
    if len(theta):
        theta[at] = theta[other] if rng.random() < 0.3 else number(rng, float(theta[at]))
        setattr(case, name, getattr(case, name).with_flat(theta))


def mutant(rng: np.random.Generator, parent: Case, pool: list[Case]) -> Case:
    case = Case(parent.name, parent.small, parent.large, copy.deepcopy(parent.data))
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        way = rng.random()
        if way < 0.5:
            anywhere(rng, case.data)
        elif way < 0.65:
            invented(rng, case)
        elif way < 0.72:
            region(rng, case)
        elif way < 0.75:
            guides(rng, case)
        elif way < 0.8:
            case_of(rng, case)
        elif way < 0.9:
            parameter(rng, case)
        elif way < 0.95:
            case.small, case.data["small_moves"] = (
                case.large,
                copy.deepcopy(case.data["large_moves"]),
            )
        else:
            name, donor = str(rng.choice(PARTS)), pool[int(rng.integers(len(pool)))]
            case.data.pop(name, None)
            case.data |= {name: copy.deepcopy(donor.data[name])} if name in donor.data else {}
            case.data.setdefault(name, []) if name.endswith("moves") else None
    case.data |= {"small": case.small.digest, "large": case.large.digest}
    return case


def tried(case: Case) -> tuple[str, kernel.Certificate | None]:
    """Why the kernel refuses, or the strongest claim that it lets pass."""
    loose = {**case.data, "minimal": False, "slack": {"constant": FAR, "growth": FAR}}
    try:
        proof = kernel.Certificate.from_json(json.dumps(loose))
        proof.verify(case.small, case.large)
    except (mo.CertificateRejected, mo.BudgetExhausted) as error:
        return re.sub(r"[-+]?[0-9][0-9./e+-]*|\[.*\]|\{.*", "#", str(error))[:90], None
    signs = proof.region if proof.apart is None else None
    left = rules.replay(proof._start(case.large), proof.large_moves, proof.near, signs)
    right = rules.replay(case.small, proof.small_moves)
    proof = dataclasses.replace(proof, slack=proof._found(left, right))
    proof.verify(case.small, case.large)
    try:
        most = dataclasses.replace(proof, minimal=True)
        most.verify(case.small, case.large)
    except mo.CertificateRejected:
        return "accepted", proof
    return "accepted, minimal", most


def attack(seed: int, *, seconds: float = math.inf, mutants: int = 2**62) -> dict[str, int]:
    """Mutants tried and accepted; raises `AssertionError` where something false was accepted."""
    rng, lines, start = np.random.default_rng(seed), Lines(), time.monotonic()
    pools = [[case] for case in forgeries.seeds()]
    every = [pool[0] for pool in pools]
    reasons, counts = set[str](), {"tried": 0, "accepted": 0, "minimal": 0, "kept": 0}
    while counts["tried"] < mutants and time.monotonic() - start < seconds:
        pool = pools[int(rng.integers(len(pools)))]
        case, before = mutant(rng, pool[int(rng.integers(len(pool)))], every), lines.new
        sys.settrace(lines)
        try:
            why, proof = tried(case)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} for {case.text}") from error
        finally:
            sys.settrace(None)
        counts["tried"] += 1
        if proof is not None:
            counts["accepted"] += 1
            counts["minimal"] += proof.minimal
            forgeries.require(case, proof, rng)
        if proof is not None or lines.new > before or f"{case.name} {why}" not in reasons:
            reasons.add(f"{case.name} {why}")
            counts["kept"] += 1
            pool[1:] = [*pool[1:], case][-POOL:]
    return {**counts, "lines": lines.new, "reasons": len(reasons)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    counts = attack(given.seed, seconds=given.seconds, mutants=given.mutants)
    print(*(f"{name}: {count}" for name, count in counts.items()), sep=", ")
