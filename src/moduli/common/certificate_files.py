"""Certificates from files: of chains and of graphs, told apart by their schema."""

from __future__ import annotations

from pathlib import Path

from moduli.kernel.certificate import Certificate
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.certificate import SCHEMA as GRAPH_SCHEMA
from moduli.kernel.graph.certificate import GraphCertificate

from .files import content


def read_certificate(path: str | Path) -> Certificate | GraphCertificate:
    """The certificate in a file, packed or not.

    Raises:
        CertificateRejected: it is none, or not of its schema; names the file.
        UnsupportedModel, OSError: see `content`.
    """
    text = content(path)
    kind = GraphCertificate if GRAPH_SCHEMA.encode() in text else Certificate
    try:
        return kind.from_json(text)
    except CertificateRejected as error:
        raise error.at(str(path)) from None
