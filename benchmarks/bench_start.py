"""Start-up: `import moduli` beyond numpy, and `moduli rank` on a small file as a whole process.

python benchmarks/bench_start.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def median(*command: str, runs: int = 9) -> float:
    """Milliseconds of a process."""
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def main() -> None:
    numpy = median("-c", "import numpy")
    both = median("-c", "import numpy, moduli")
    rank = median("-m", "moduli.interface.cli", "rank", "zoo:digits-plain")
    print("| what | measured | goal |\n|---|---|---|")
    print(
        f"| import numpy | {numpy:.0f} ms | |\n| import moduli beyond it | {both - numpy:.0f} ms | 50 ms |"
    )
    print(f"| moduli rank, a small file | {rank:.0f} ms | 1000 ms |")


if __name__ == "__main__":
    main()
