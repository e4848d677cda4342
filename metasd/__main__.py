"""The command `metasd`: signals are handled before anything that takes time is imported."""

from metasd import errors


def main() -> None:
    errors.handle_signals()
    from metasd.cli import main as run

    run()


if __name__ == "__main__":
    main()
