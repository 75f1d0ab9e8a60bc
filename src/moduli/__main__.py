"""``python -m moduli``, and the command: it can be interrupted from the start."""

import sys


def main() -> None:
    """Run the command line; what it needs is imported here, so that Ctrl-C ends this, too, in one line."""
    try:
        from .interface.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("moduli: interrupted; nothing was written\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
