"""`python -m bridge.cli` is the `sbridge` command."""

from bridge.cli import main

if __name__ == "__main__":
    main()
