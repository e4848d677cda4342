"""Usage errors, such as an unknown option, as one line."""

import re
from typing import Any

import typer

from metasd.errors import nearest

USAGE_ERROR: Any = typer.BadParameter.__base__
"""The class of all of them: click's, or that of the copy of click in newer versions of typer."""

_OPTION, _COMMAND = r"No such option: (\S+)", r"No such command '(.*?)'"  # behind it, suggestions


def usage_error(error: Any) -> str:
    """What is wrong, with the option or command that may be meant, or where the help is."""
    message, context = error.format_message().rstrip("."), error.ctx
    command = context.command_path.partition(" ")[2] if context else ""
    meant = ""
    if unknown := re.match(_OPTION, message):
        names = [name for option in context.command.params for name in option.opts]
        message, meant = unknown[0], nearest(unknown[1], names)
    elif unknown := re.match(_COMMAND, message):
        message, meant = unknown[0], nearest(unknown[1], context.command.commands)
    where = f"{command}: " if command else ""
    hint = meant or f"; see `{' '.join(['metasd', *command.split(), '--help'])}`"
    return f"{where}{message[:1].lower()}{message[1:]}{hint}"
