"""The tests of `objects.py`, run without type checks of arguments."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_objects_prove_no_falsehood():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-o",
        "addopts=",
        "-p",
        "no:cacheprovider",
        "tests/adversarial/objects.py",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    env.pop("PYTEST_ADDOPTS", None)  # of those who run this test
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    print(done.stdout)  # what was skipped, and why
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 80
