"""Files and folders that appear whole, or not at all."""

import os
from pathlib import Path

import pytest

from metasd import files
from metasd.errors import InputError
from metasd.files import followed, new_folder, open_regular, read_json, read_yaml


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(path)


def test_a_folder_is_replaced_at_once_where_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for exchange in (files._exchange, lambda first, second: False):
        monkeypatch.setattr(files, "_exchange", exchange)
        for content in ("old", "new"):
            with new_folder(tmp_path / "folder", ("a",), overwrite=True) as made:
                (made / "a").write_text(content)
        assert (tmp_path / "folder" / "a").read_text() == "new"
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".folder.new" / "below").mkdir(parents=True)
    (tmp_path / ".folder.new" / "below" / "file").touch()
    with new_folder(tmp_path / "folder") as made:
        (made / "a").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "a"]


def test_a_folder_that_another_process_made_meanwhile_stays(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="another process is writing"),
        new_folder(tmp_path / "folder"),
        new_folder(tmp_path / "folder"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_nested_or_aliased_yaml_is_refused_soon(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    for text, message in (
        ("[" * 20_000, "nested more than 50 deep"),
        ("- " * 20_000, "nested more than 50 deep"),
        ("a: &a [1]\nb: *a\n", "aliases are not read"),
        ("a: 1\n" + "#" * (1 << 20), "larger than 1 MiB"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_yaml(path)


def test_nested_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text("[" * 20_000)
    with pytest.raises(InputError, match=r"file\.json: not JSON"):
        read_json(tmp_path / "file.json")


def test_a_folder_is_followed(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    with followed(first) as place:
        assert place() == first
        first.rename(second)
        first.mkdir()
        if Path("/proc/self/fd").exists():
            assert place() == second
        second.rmdir()
        with pytest.raises(InputError, match="removed, or moved"):
            place()
