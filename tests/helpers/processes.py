"""Functions run by several processes that form a group."""

import os
import pickle
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist
from torch import multiprocessing

from metasd.kernels import register_group

SECONDS = 300
"""After which processes are taken to wait for each other."""


def run(worker: Callable[..., Any], processes: int, *arguments: Any) -> list[Any]:
    """What `worker(group, *arguments)` returns in every process, in the order of their ranks.

    Raises:
        AssertionError: with the traceback of the first that failed; they do not end.
    """
    context = multiprocessing.get_context("spawn")
    with TemporaryDirectory() as folder:
        shared = (processes, folder, worker, arguments)
        group = [context.Process(target=_work, args=(rank, *shared)) for rank in range(processes)]
        for process in group:
            process.start()
        try:
            deadline = time.monotonic() + SECONDS
            while any(process.exitcode is None for process in group):
                assert time.monotonic() < deadline, f"not done after {SECONDS} seconds"
                if any(process.exitcode for process in group):
                    break
                time.sleep(0.02)
            failures = sorted(Path(folder).glob("*.failure"), key=lambda path: path.stat().st_mtime)
            assert not failures, failures[0].read_text()
            assert not any(process.exitcode for process in group), "a process was killed"
            return [
                pickle.loads(Path(folder, f"{i}.result").read_bytes()) for i in range(processes)
            ]
        finally:
            for process in group:
                process.kill()
                process.join()


def _work(
    rank: int,
    processes: int,
    folder: str,
    worker: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    try:
        dist.init_process_group(
            "gloo",
            f"file://{folder}/group",
            timeout=timedelta(seconds=SECONDS),
            rank=rank,
            world_size=processes,
        )
        assert dist.group.WORLD is not None
        result = worker(register_group(dist.group.WORLD), *arguments)
        Path(folder, f"{rank}.result").write_bytes(pickle.dumps(result))
        dist.barrier()  # who leaves first would take the group's meeting place along
    except BaseException:
        Path(folder, f"{rank}.failure").write_text(f"process {rank}: {traceback.format_exc()}")
        os._exit(1)
    dist.destroy_process_group()
