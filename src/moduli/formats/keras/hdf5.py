"""HDF5 files, read in a process of their own: the library is C, and damaged files let it loop or
crash.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moduli.common.files import unpack
from moduli.kernel.errors import MissingExtra, UnsupportedModel

Array = np.ndarray[Any, np.dtype[Any]]
SCRIPT = Path(__file__).with_name("hdf5_process.py")
SECONDS = 60.0  # that reading may take, and one more for each
BYTES_A_SECOND = 2**22


class Held(NamedTuple):
    """What a file holds: arrays by number, and what is said of them (`hdf5_process`)."""

    said: dict[str, Any]
    arrays: dict[int, Array]


def held(data: bytes, where: str, *, weights: bool, seconds: float = SECONDS) -> Held:
    """Read a file.

    Args:
        weights: whether it holds numbered weights alone, as in a `.keras` archive.

    Raises:
        UnsupportedModel: it is damaged, or points at other files.
        MissingExtra: h5py is not installed.
    """
    if find_spec("h5py") is None:
        raise MissingExtra("h5py", "keras")
    command = [sys.executable, "-P", str(SCRIPT), "weights" if weights else "whole"]
    limit = seconds + len(data) / BYTES_A_SECOND
    try:
        ended = subprocess.run(command, input=data, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise _damaged(where, f"the HDF5 library does not end within {limit:.0f} seconds") from None
    if ended.returncode:
        raise _damaged(where, f"the HDF5 library fails ({ended.returncode})")
    found = unpack(ended.stdout)
    said = json.loads(found.pop("said").tobytes())
    if "damaged" in said:
        raise _damaged(where, said["damaged"])
    if "refused" in said:
        raise UnsupportedModel(f"{where}: {said['refused']}")
    return Held(said, {int(name[1:]): array for name, array in found.items()})


def _damaged(where: str, why: str) -> UnsupportedModel:
    return UnsupportedModel(f"{where}: damaged or no HDF5 file ({why})")
