"""The command line by a name that stays: ``python -m moduli.cli``, as ``moduli`` where it is
installed; see `interface.cli`.
"""

from __future__ import annotations

from .interface.cli import main as main

if __name__ == "__main__":
    main()
