"""The commands of README and docs: each page's are run as written, in order, in a new folder.

A block that cannot run here has `<!-- not run: reason -->` on the line before it. `my-graph` is
there from the start, as a folder of triples; so are small graphs named FB15k-237 and WN18RR. A
server is started, and stopped as soon as it listens.
"""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from metasd import cli
from metasd.data.load import load_graph

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELLS, PYTHON = ("sh", "bash", "shell", "console"), ("python", "py")
BLOCK = re.compile(
    r"(?:^[ ]*<!-- not run: (?P<reason>[^\n]+?) -->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```",
    re.M | re.S,
)

METASD = """#!{python}
import signal, subprocess, sys
command = [sys.executable, "-m", "metasd", *sys.argv[1:]]
if sys.argv[1:2] != ["serve"]:
    sys.exit(subprocess.run(command).returncode)
server = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
listens = server.stdout.readline().startswith("http://")
server.terminate()
sys.exit(not listens or server.wait() != 128 + signal.SIGTERM)
"""
"""`metasd` of the Python that runs the tests, wherever it is installed."""


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    code: str
    not_run: str | None
    """Why not, if the page says so."""


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of shell commands and of Python."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        language, code = found["language"], textwrap.dedent(found["code"])
        if language in SHELLS or language in PYTHON:
            line = text.count("\n", 0, found.start("code"))
            yield Block(page, line, language, code, found["reason"])


def program(block: Block) -> list[str]:
    """What runs a block; of a console only the lines after a prompt are commands."""
    if block.language in PYTHON:
        return [sys.executable, "-c", block.code]
    code = block.code
    if block.language == "console":
        lines = [line[2:] for line in code.splitlines() if line.startswith(("$ ", "> "))]
        code = "\n".join(lines)
    return ["bash", "-euo", "pipefail", "-c", code]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("environment")
    for name in ("FB15k-237", "WN18RR"):
        write_graph(folder / "graphs" / name, "families:300")
    command = folder / "bin" / "metasd"
    command.parent.mkdir()
    command.write_text(METASD.format(python=sys.executable))
    command.chmod(0o755)
    path = os.pathsep.join([str(command.parent), str(Path(sys.executable).parent)])
    return {
        **os.environ,
        "PATH": os.pathsep.join([path, os.environ["PATH"]]),
        "METASD_DATA": str(folder / "graphs"),
        "PYTHONSAFEPATH": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }


def write_graph(folder: Path, name: str, *more: str) -> None:
    graph = load_graph(name)
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        lines = [
            f"{graph.entities[h]}\t{graph.relations[r]}\t{graph.entities[t]}\n"
            for h, r, t in graph.split(split)
        ]
        lines += more if split == "train" else []
        (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(blocks(page))], ids=lambda p: p.name
)
def test_the_commands_of_a_page_run(
    page: Path,
    tmp_path: Path,
    environment: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in ("matplotlib", "optuna", "fastapi"):  # what pages say how to install
        pytest.importorskip(package)
    write_graph(tmp_path / "my-graph", "families:200", "France\tcapital\tParis\n")
    found = list(blocks(page))
    run = [block for block in found if block.not_run is None]
    with capsys.disabled():
        print(f"\n{page.name}: {len(run)} blocks are run, {len(found) - len(run)} are not")
    for block in run:
        done = subprocess.run(
            program(block),
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, (
            f"{page.name}, line {block.line}: exit code {done.returncode}\n{block.code}\n"
            f"{done.stdout[-4000:]}"
        )


def commands(page: Path) -> Iterator[str]:
    """Every `metasd ...` of a page, within blocks and sentences."""
    text = page.read_text(encoding="utf-8")
    yield from re.findall(r"`(metasd [a-z][^`\n]*)`", text)
    for block in blocks(page):
        if block.language in SHELLS:
            yield from re.findall(
                r"^(?:\$ )?(metasd .*?)(?: #.*)?$", block.code.replace("\\\n", " "), re.M
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_on_a_page_exist(page: Path) -> None:
    group = get_command(cli.app)
    assert isinstance(group, TyperGroup)
    for text in commands(page):
        _, name, *words = shlex.split(text)
        assert name in group.commands, text
        options = {option for p in group.commands[name].params for option in p.opts}
        for word in words:
            if word.startswith("-") and not word.lstrip("-")[:1].isdigit():
                assert word.partition("=")[0] in options | {"--help"}, text


def test_blocks_are_found_with_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n```sh\necho a\n```\n\n<!-- not run: takes hours -->\n```python\n1 / 0\n```\n"
        "1. item\n\n   ```console\n   $ echo b\n   b\n   ```\n```yaml\na: 1\n```\n"
    )
    found = list(blocks(page))
    assert [(b.line, b.language, b.not_run) for b in found] == [
        (2, "sh", None),
        (7, "python", "takes hours"),
        (12, "console", None),
    ]
    assert [program(block)[-1] for block in found[::2]] == ["echo a\n", "echo b"]
