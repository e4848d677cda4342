"""Each attack in small; `python tests/attacks/run.py --full` is the same in large."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fuzz_files
import kill_attacks
import signal_attacks
from file_attacks import Originals, attacks, measured
from service_attacks import ATTACKS
from service_model import small_model
from service_trial import Server, attacked

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and uses all of 127/8")
CASES = 600
KILLS = 4
SIGNALS = 5


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    return Originals(tmp_path_factory.mktemp("originals"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    folder: Path = tmp_path_factory.mktemp("attacked")
    small_model().save_pretrained(folder / "model")
    with Server(folder / "model", folder / "log") as running:
        yield running


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_good_requests_are_answered_during(name: str, server: Server) -> None:
    outcome = attacked(name, server, seconds=1, size=0.1, rest=0.2)
    assert outcome.seconds
    assert not outcome.failed
    assert not outcome.lines, server.log.read_text()
    assert outcome.growth < 64 << 20


@linux
@pytest.mark.slow
def test_connections_of_the_same_client_give_way_to_its_new_ones(server: Server) -> None:
    outcome = attacked("half_open", server, seconds=1, size=0.1, client="127.0.0.1", rest=0.2)
    assert outcome.seconds
    assert not outcome.failed


@linux
def test_hostile_files_are_refused_in_one_line(originals: Originals, tmp_path: Path) -> None:
    fell = []
    for name, act in attacks(originals, tmp_path / "work", 0.02):
        outcome = measured(name, act)
        if not outcome.held:
            fell.append(outcome)
    assert not fell


@linux
@pytest.mark.slow
def test_malformed_files_are_read_or_refused(tmp_path: Path) -> None:
    found = fuzz_files.fuzz(CASES, 0, tmp_path)
    assert not found.fallen
    assert sum(found.counts.values()) == CASES
    assert found.counts["model folder: refused"] > CASES // 4


@pytest.mark.slow
def test_a_kill_between_write_flush_and_rename_damages_nothing() -> None:
    program = [sys.executable, kill_attacks.__file__, str(KILLS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": ""}
    done = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["fallen"]
    assert len(found["by_act"]) == 5
    assert min(found["by_act"].values()) == KILLS


@linux
@pytest.mark.slow
def test_signals_end_commands_in_one_line(originals: Originals, tmp_path: Path) -> None:
    for outcome in signal_attacks.trial(originals, tmp_path / "work", SIGNALS):
        assert outcome.held, outcome
