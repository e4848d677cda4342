"""One clear line and exit code 2 for every mistake; the help of every command."""

from pathlib import Path

import pytest
from typer.core import TyperGroup as Group
from typer.main import get_command

from command_line import QUICK, Command
from metasd import cli
from metasd.settings import PRESETS


def test_every_command_and_option_is_described() -> None:
    group = get_command(cli.app)
    assert isinstance(group, Group)
    for command in group.commands.values():
        assert command.help
        assert command.help.count(".") == 1, command.name
        assert len(command.help) < 60, command.name  # or `metasd --help` cuts it off
        for parameter in command.params:
            described = parameter.name == "help" or parameter.help  # type: ignore[attr-defined]
            assert described, (command.name, parameter.name)


def test_the_help_names_every_preset(metasd: Command) -> None:
    _, out, _ = metasd("train", "--help")
    for name in PRESETS:
        assert name in out


def test_no_argument_shows_help(metasd: Command) -> None:
    code, out, _ = metasd()
    assert (code, "train" in out) == (2, True)


def spoil(folder: Path, name: str, text: str | None) -> None:
    path = folder / name
    path.unlink()
    if text is not None:
        path.write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.txt", None, "no train file"),
        ("train.txt", "", "train.txt"),
        ("test.txt", "a\tb\tc\na\tb\n", "line 2"),
        ("valid.txt", "a\tb\tc\td\n", "line 1"),
        ("test.txt", "\n", "test.txt"),
    ],
)
def test_bad_files_are_named_with_their_line(
    metasd: Command, folder: Path, name: str, text: str | None, message: str
) -> None:
    spoil(folder, name, text)
    code, out, err = metasd("train", folder, *QUICK, "--run", "runs/x")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere/graph"], "no such file or folder"),
        (["train", "familes"], 'did you mean "families"'),
        (["train", "--preset", "metsd"], 'did you mean "metasd"'),
        (["train", "--set", "train.epocs=3"], 'did you mean "train.epochs"'),
        (["train", "--set", "prune.fraction=2"], "less than 1; got 2"),
        (["train", "--set", "model.rank=0"], "greater than or equal to 1; got 0"),
        (["train", "--config", "none.yaml"], "none.yaml"),
        (["train", "--run", ""], "needs a name"),
        (["train", "--split-ratios", "1,2"], "three shares"),
        (["train", "--split-ratios", "0.8,0.1,0.1"], "files without valid or test; got families"),
        (["train", "--columns", "hhh"], "permutation"),
        (["train", "--budget", "5x"], "a time such as 90s, 1m30s, 10m, 2.5m or 1h; got '5x'"),
        (["resume", "nowhere"], "not a run folder"),
        (["evaluate", "nowhere"], "neither a run folder nor a model folder"),
        (["predict", "nowhere", "-r", "x", "--head", "y"], "neither a run folder nor a model"),
        (["score", "nowhere", "x.tsv"], "neither a run folder nor a model folder"),
        (["neighbors", "nowhere", "x"], "neither a run folder nor a model folder"),
        (["info", "nowhere"], "neither a run folder nor a model folder"),
        (["export", "nowhere", "--format", "npy"], "neither a run folder nor a model folder"),
        (["train", "--from", "nowhere"], "neither a run folder nor a model folder"),
        (["report", "nowhere"], "not a run folder"),
        (["trian"], "no such command 'trian'; did you mean \"train\"?"),
        (["train", "--prset", "x"], 'train: no such option: --prset; did you mean "--preset"?'),
        (["train", "a", "b"], "unexpected extra argument"),
        (["predict"], "predict: missing argument 'MODEL'; see `metasd predict --help`"),
        (["predict", "x", "-k", "ten"], "predict: invalid value for '-k': "),
        (["search", "x.yaml", "--trials", "0"], "invalid value for '--trials': "),
        (["compress", "x", "--codec"], "option '--codec' requires an argument"),
        (["--bogus"], "no such option: --bogus; see `metasd --help`"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    metasd: Command, arguments: list[str], message: str
) -> None:
    code, _, err = metasd(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("metasd: ")
    assert err.count("\n") == 1
    assert not Path("runs").exists()
