"""The files that a public repository has: they parse, and agree with pyproject.toml."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PROJECT["project"]["version"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["ci", "wheels"])
def test_workflows_parse_and_run_something(name: str) -> None:
    workflow = yaml.safe_load(read(f".github/workflows/{name}.yml"))
    assert workflow["jobs"]
    for job in workflow["jobs"].values():
        assert any("run" in step for step in job["steps"])
        assert job["timeout-minutes"]


def test_ci_tests_the_python_versions_that_pyproject_names() -> None:
    tested = yaml.safe_load(read(".github/workflows/ci.yml"))
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert tested["jobs"]["checks"]["strategy"]["matrix"]["python"] == named
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"


def test_pre_commit_hooks_parse() -> None:
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))
    assert [hook["id"] for repo in hooks["repos"] for hook in repo["hooks"]]


def test_citation_names_this_version() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == VERSION
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["preferred-citation"]["doi"]


def test_changelog_names_this_version() -> None:
    assert re.search(rf"^##.*\b{re.escape(VERSION)}\b", read("CHANGELOG.md"), re.MULTILINE)


def test_every_package_is_a_folder() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    folders = setuptools.get("package-dir", {})
    for package in setuptools["packages"]:
        folder = ROOT / folders.get(package, package.replace(".", "/"))
        assert (folder / "__init__.py").is_file(), package


def test_every_package_folder_is_a_package() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    folders = setuptools.get("package-dir", {})
    listed = {folders.get(name, name.replace(".", "/")) for name in setuptools["packages"]}
    found = {
        path.parent.relative_to(ROOT).as_posix()
        for top in ("metasd", "kernels")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert found == listed


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_tracked_file_names_where_it_was_written() -> None:
    places = "|".join(f"/{name}/" for name in ("work", "root"))
    found = subprocess.run(
        ["git", "grep", "-nIE", rf"(^|[^A-Za-z0-9_.)}}-])({places})"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1, found.stdout + found.stderr  # 1: nothing was found
