"""With `--both-checkers` the second checker judges every certificate that the kernel checks while tests run.

What the kernel accepts the second may not refuse, and what the kernel refuses it may not accept: it
answers the same, or says that it does not understand. Certificates of large networks, and of many parts of a box, are
left out: it is slow.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import moduli_check as second
from second_graphs import judged_graph

from moduli.kernel.certificate import Certificate
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.certificate import GraphCertificate

PARAMETERS = 5_000
PARTS = 50  # of a box, or of the trees of its cases
# The second rounds less than the kernel: it may prove a bound or a sign that the kernel does not.
LESS_ROUNDED = re.compile(r"is claimed|are claimed|not proved|is proved")
BETWEEN_BOUNDS = re.compile(r"not constant there")  # the same, where inputs have bounds
NO_FILE = re.compile(
    r"is no plain value|is no tensor of real numbers"
)  # objects that no file holds
COUNTS: Counter[str] = Counter()


def install() -> None:
    _wrap(Certificate, "_verify", judged_chain, chain_size)
    _wrap(GraphCertificate, "verify", judged_graph, graph_size)


def read_chain(net: Any) -> Any:
    layers = [
        (x.weight.tolist(), x.bias.tolist(), second.activation_of(str(x.activation)))
        for x in net.layers
    ]
    return second.network(layers, net.output_map, net.widths[0])


def judged_chain(claim: Certificate, small: Any, large: Any) -> str:
    try:
        found = second.check_chain(
            json.loads(json.dumps(claim.to_json())), read_chain(small), read_chain(large)
        )
        return str(found)
    except second.Rejected as error:
        return f"rejected: {error}"
    except second.NotUnderstood as error:
        return f"undecided: {error}"


def chain_size(claim: Certificate, small: Any, large: Any) -> bool:
    region = claim.region
    parts = 0 if region is None else len(region.tree) + sum(len(c.tree) for c in region.cases)
    parts += sum(len(p.tree) for p in (claim.apart, claim.changed and claim.changed.enclosure) if p)
    return large.parameters <= PARAMETERS and parts <= PARTS


def graph_size(claim: GraphCertificate, small: Any, large: Any) -> bool:
    return sum(array.size for array in large.constants.values()) <= PARAMETERS


def _wrap(owner: type, name: str, judged: Any, is_small: Any) -> None:
    checked = getattr(owner, name)

    def both(claim: Any, small: Any, large: Any) -> None:
        kernel, refused = "accepted", None
        try:
            checked(claim, small, large)
        except CertificateRejected as error:
            kernel, refused = "rejected", error
        if type(claim) is owner and is_small(claim, small, large):
            _compare(claim, kernel, refused, judged(claim, small, large))
        else:
            COUNTS[f"{owner.__name__}: too large"] += 1
        if refused is not None:
            raise refused

    setattr(owner, name, both)


def _compare(claim: Any, kernel: str, refused: Exception | None, said: str) -> None:
    mine, why = said.split(":")[0], str(refused)
    COUNTS[f"{type(claim).__name__}: kernel {kernel}, second {mine}"] += 1
    known = [LESS_ROUNDED, NO_FILE, *([BETWEEN_BOUNDS] if getattr(claim, "ranges", {}) else [])]
    if mine in (kernel, "undecided"):
        return
    if kernel == "rejected" and any(reason.search(why) for reason in known):
        return
    raise AssertionError(f"the kernel: {kernel} ({why}); the second checker: {said}")
