"""The command line: one function per command, and `main`, which runs them.

A command imports what it needs when it runs: `metasd --help` and answers from a compressed model
load no torch.
"""

import io
import os
import signal
import sys
from typing import Annotated

import typer

import metasd
from metasd import errors
from metasd.errors import InputError

from . import add, answers, experiments, exports, graphs, models, training
from .output import fail
from .usage import USAGE_ERROR, usage_error

app = typer.Typer(
    help="Knowledge-graph embeddings: train a dense source model and a compact one.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _command in (
    training.train,
    training.resume,
    models.evaluate,
    exports.compress,
    exports.export,
    exports.push,
    add.add,
    answers.predict,
    answers.score,
    answers.neighbors,
    models.info,
    models.serve,
    experiments.report,
    experiments.sweep,
    experiments.search,
    graphs.prepare,
    graphs.datasets,
    graphs.env,
):
    app.command()(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"metasd {metasd.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt, too


def main() -> None:
    """Runs the command line; a mistake in the input is one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a label is never worth a crash
        sys.stdout.reconfigure(errors="replace")
    errors.note_signal(signal.SIGINT)  # which a KeyboardInterrupt is of, unless another is noted
    try:
        code = app(prog_name="metasd", standalone_mode=False)
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code)
    except USAGE_ERROR as error:
        fail(usage_error(error), 2)
    except InputError as error:
        fail(str(error), 2)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "metasd":
            raise
        fail(f"{error.name} is not installed, and this command needs it", 2)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted", errors.exit_code())
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        fail("not enough memory; `metasd train --dry-run` prints what a configuration needs", 2)
    except OSError as error:
        fail(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), 2)
