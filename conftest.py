"""For tests and for examples in docstrings: annotations are checked."""

import type_checks

type_checks.install()
