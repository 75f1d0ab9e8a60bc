"""For tests and for examples in docstrings."""

from typing import Any

import pytest
import type_checks


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--check-types", action="store_true", help="check annotations of moduli at each call"
    )
    parser.addoption(
        "--both-checkers",
        action="store_true",
        help="the second checker judges every certificate that the kernel checks",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--check-types"):
        type_checks.install()
    if config.getoption("--both-checkers"):
        import both_checkers

        both_checkers.install()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--both-checkers"):
        import both_checkers

        for name, count in sorted(both_checkers.COUNTS.items()):
            terminalreporter.write_line(f"{count:7} {name}")
