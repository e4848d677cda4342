"""The command line in tests: settings of runs that take a fraction of a second."""

from collections.abc import Callable

Command = Callable[..., tuple[int, str, str]]
"""Arguments in; exit code, standard output and standard error out."""

QUICK = ["--set", "model.rank=8", "--set", "train.epochs=2", "--set", "train.batch_size=400"]
SMALL = ["--preset", "metasd", *QUICK]
