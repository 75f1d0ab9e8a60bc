"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import mpmath
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")  # how long an example takes says nothing of the code
SHARED = Path(
    os.environ.get("MODULI_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared")
)


@pytest.fixture(autouse=True, scope="module")
def _digits_as_found():
    """Tests that ask mpmath for digits give them back: those behind would take minutes with them."""
    yield
    assert mpmath.mp.dps == 15


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with cases and real models; MODULI_SHARED names another place."""
    if not (SHARED / "cases").is_dir():
        warnings.warn(
            f"SHARED FILES ABSENT at {SHARED}: tests on real models are skipped; set MODULI_SHARED",
            stacklevel=1,
        )
        pytest.skip(f"no shared files at {SHARED}; set MODULI_SHARED")
    return SHARED
