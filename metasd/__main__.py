"""`python -m metasd` is the command `metasd`."""

from metasd.cli import main

if __name__ == "__main__":
    main()
