"""`python -m metasd` is the command `metasd`."""

from .cli import main

if __name__ == "__main__":
    main()
