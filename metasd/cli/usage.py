"""Usage errors, such as an unknown option, as one line."""

from typing import Any

import typer

from metasd.errors import nearest

USAGE_ERROR: Any = typer.BadParameter.__base__
"""The class of all of them: click's, or that of the copy of click in newer versions of typer."""


def usage_error(error: Any) -> str:
    """What is wrong, with the option or command that may be meant, or where the help is."""
    given, names = getattr(error, "option_name", ""), getattr(error, "possibilities", None)
    message, _, meant = error.format_message().rstrip(".").partition(". Did you mean ")
    if meant:
        meant = f"; did you mean {meant}"
    elif names:
        message, meant = error.message, nearest(given, names)
    command = error.ctx.command_path.partition(" ")[2] if error.ctx else ""
    where = f"{command}: " if command else ""
    hint = meant or f"; see `{' '.join(['metasd', *command.split(), '--help'])}`"
    return f"{where}{message[:1].lower()}{message[1:]}{hint}"
