"""Runs the command `rebasin` as ``python -m rebasin_core``."""

from rebasin_core.cli import main

if __name__ == "__main__":
    main()
