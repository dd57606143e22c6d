"""Lets ``python -m rebasin_core`` do what the command `rebasin` does."""

from rebasin_core.cli import main

if __name__ == "__main__":
    main()
