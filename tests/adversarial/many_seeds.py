"""A fuzzer of graphs tries many seeds: findings are told and kept, all that was done is counted."""

from __future__ import annotations

import argparse
import collections
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

FINDING = "FINDING "


class Ending(NamedTuple):
    """How one seed ends.

    Attributes:
        kind: a word; of a finding, `FINDING` in front of it. what: was seen. case: a model, or what
            `keep` makes files of; None where there is nothing to keep. done: what was done, counted.
    """

    kind: str
    what: str = ""
    case: Any = None
    done: Mapping[str, int] = MappingProxyType({})

    @property
    def finding(self) -> bool:
        return self.kind.startswith(FINDING)


def keep_model(ending: Ending, seed: int, path: Path) -> None:
    path.with_suffix(".onnx").write_bytes(ending.case.SerializeToString())


def run(
    tried: Callable[[int], Ending],
    seeds: Iterable[int],
    findings: Path | None,
    keep: Callable[[Ending, int, Path], None] = keep_model,
) -> collections.Counter[str]:
    """Try seeds; a folder takes what is kept of findings."""
    total = collections.Counter[str]()
    for seed in seeds:
        ending = tried(seed)
        total[ending.kind] += 1
        total.update(ending.done)
        if ending.finding:
            print(f"{seed}: {ending.kind}: {ending.what}", flush=True)
        if ending.finding and findings is not None and ending.case is not None:
            findings.mkdir(parents=True, exist_ok=True)
            keep(ending, seed, findings / str(seed))
    return total


def wrong(total: Mapping[str, int]) -> dict[str, int]:
    """The findings among what was counted."""
    return {name: count for name, count in total.items() if name.startswith(FINDING)}


def main(
    document: str | None, count: int, run: Callable[..., collections.Counter[str]], **numbers: int
) -> int:
    """The command line of a fuzzer: `run(seeds, findings=..., **numbers)`; whether something is wrong."""
    parser = argparse.ArgumentParser(description=(document or "").splitlines()[0])
    parser.add_argument("--findings", type=Path)
    for name, usual in {"seed": 0, "count": count, **numbers}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    chosen = vars(parser.parse_args())
    first = chosen.pop("seed")
    started = time.monotonic()
    total = run(range(first, first + chosen.pop("count")), **chosen)
    for name, times in sorted(total.items()):
        print(f"{times:10d} {name}")
    print(f"{time.monotonic() - started:10.1f} seconds")
    return bool(wrong(total))
