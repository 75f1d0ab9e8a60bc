"""For tests and for examples in docstrings."""

import pytest
import type_checks


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--check-types", action="store_true", help="check annotations of moduli at each call"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--check-types"):
        type_checks.install()
