"""The sdist and the wheel: complete, and of use without a checkout or a compiler."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOT_COPIED = (".*", "__pycache__", "build", "dist", "runs", "*.egg-info", "*.so", "*.pyd")


def run(
    *command: str | Path, cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | {"NO_COLOR": "1"} if environment is None else environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def copy_checkout(to: Path) -> None:
    """The files that git tracks, or would; of another folder, all but what builds leave behind."""
    if not (ROOT / ".git").exists():
        shutil.copytree(ROOT, to, ignore=shutil.ignore_patterns(*NOT_COPIED))
        return
    listed = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of the checkout, and the wheel that is built from that sdist."""
    for module in ("build", "twine"):
        if importlib.util.find_spec(module) is None:
            pytest.fail(f'{module} is not installed: pip install ".[test]"')
    folder = tmp_path_factory.mktemp("wheel")
    copy_checkout(folder / "checkout")
    # The contents count here, not the speed: -O1 compiles in half the time of -O3.
    compiler = folder / "compiler"
    compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX", "c++")} "$@" -O1\n')
    compiler.chmod(0o755)
    environment = os.environ | {"METASD_CUDA": "0", "CC": str(compiler), "CXX": str(compiler)}
    command = (sys.executable, "-P", "-m", "build", "--outdir", folder / "dist", ".")
    run(*command, cwd=folder / "checkout", environment=environment)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


def test_the_index_accepts_them(dist: Path) -> None:
    assert len(list(dist.iterdir())) == 2
    run(sys.executable, "-P", "-m", "twine", "check", "--strict", *dist.iterdir(), cwd=dist)


def test_the_sdist_has_the_sources_and_little_else(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {f"csrc/{file.name}" for file in (ROOT / "csrc").iterdir() if file.is_file()}
    assert sources <= names
    assert {"LICENSE", "CHANGELOG.md", "CITATION.cff", "README.md", "setup.py"} <= names
    folders = {name.partition("/")[0] for name in names if "/" in name}
    assert folders == {"csrc", "kernels", "metasd", "metasd.egg-info"}


def test_the_wheel_has_every_package_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packages = {package.replace(".", "/") for package in PROJECT["tool"]["setuptools"]["packages"]}
    assert {f"{package}/__init__.py" for package in packages} <= names
    for package in packages:
        source = package.replace("metasd/kernels", "kernels")
        assert {f"{package}/{file.name}" for file in (ROOT / source).glob("*.py")} <= names
    assert {"metasd/service/page.html", "metasd/py.typed", "metasd/_C.pyi"} <= names
    assert sum(name.startswith("metasd/_C.") and name.endswith(".so") for name in names) == 1
    tops = {name.partition("/")[0] for name in names}
    version = PROJECT["project"]["version"]
    assert tops == {"metasd", f"metasd-{version}.dist-info"}
    assert f"metasd-{version}.dist-info/licenses/LICENSE" in names


def test_it_installs_and_trains_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    empty, target = tmp_path / "bin", tmp_path / "site"
    empty.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CUDA")}
    environment |= {"PATH": str(empty), "CC": "/nonexistent", "CXX": "/nonexistent"}
    environment |= {"PYTHONPATH": str(target), "PYTHONSAFEPATH": "1"}
    install = ("-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel)
    run(sys.executable, *install, cwd=tmp_path, environment=environment)
    where = "import metasd, metasd._C; print(metasd.__file__, metasd._C.__file__, sep='\\n')"
    found = run(sys.executable, "-c", where, cwd=tmp_path, environment=environment).stdout
    assert all(Path(path).is_relative_to(target) for path in found.splitlines()), found
    metasd = (sys.executable, "-m", "metasd")
    version = PROJECT["project"]["version"]
    assert version in run(*metasd, "env", cwd=tmp_path, environment=environment).stdout
    settings = ("--set", "model.rank=8", "--set", "train.epochs=4", "--run", "run")
    run(*metasd, "train", "families:200", *settings, cwd=tmp_path, environment=environment)
    assert (tmp_path / "run" / "metrics.json").is_file()
