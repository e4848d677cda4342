"""TensorBoard events of a run, when TensorBoard is installed."""

import importlib.util
from pathlib import Path
from typing import Any


class Events:
    """Writes the numbers of every history record; does nothing without TensorBoard."""

    def __init__(self, folder: Path, finished_epochs: int) -> None:
        self._writer: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=finished_epochs + 1)

    def add(self, record: dict[str, Any]) -> None:
        if self._writer is None:
            return
        for name, value in record.items():
            numbers = value if isinstance(value, dict) else {"": value}
            for metric, number in numbers.items():
                self._writer.add_scalar(f"{name}/{metric}".rstrip("/"), number, record["epoch"])
        self._writer.flush()
