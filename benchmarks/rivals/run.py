"""moduli beside other tools, the same inputs in the same run, as Markdown tables.

python benchmarks/rivals/run.py [redundancy] [models] [twins] [distances] [devices] [plain]
(all by default; about ten minutes)

Needs the extra `torch`. A tool that is not installed is skipped, loudly. None of them is a
dependency: pip install torch-pruning torch-simplify onnxslim onnxsim rebasin
"""

from __future__ import annotations

import importlib
import logging
import os
import platform
import sys
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
QUESTIONS = ("redundancy", "models", "twins", "distances", "devices", "plain")
SHOWN = (
    "moduli",
    "numpy",
    "scipy",
    "torch",
    "onnx",
    "torch-pruning",
    "torch-simplify",
    "onnxslim",
    "onnxsim",
    "rebasin",
)


def versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in SHOWN:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> None:
    unknown = set(sys.argv[1:]) - set(QUESTIONS)
    if unknown:
        sys.exit(
            f"no comparison is called {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}"
        )
    warnings.filterwarnings("ignore", module="torch|onnx|rebasin|simplify")
    logging.disable(logging.WARNING)  # the tables are the output
    print(f"Python {platform.python_version()}, {versions()}")
    for name in sys.argv[1:] or QUESTIONS:
        print(f"\n## {name}", flush=True)
        importlib.import_module(name).main()


if __name__ == "__main__":
    main()
