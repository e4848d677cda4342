"""The rooms of the package: which module imports which, without circles, and how long files are."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = [
    "cli",
    "experiments",
    "service",
    "export",
    "training",
    "evaluation",
    "config",
    "settings",
    "compressed",
    "models",
    "data",
    "distributed",
    "environment",
    "files",
    "kernels",
    "errors",
]
"""From the top floor down: a room uses only rooms below it."""


def modules() -> dict[str, Path]:
    """Every module of the package by name; `kernels/` is installed as `metasd.kernels`."""
    found = {}
    for folder, prefix in ((ROOT / "metasd", "metasd"), (ROOT / "kernels", "metasd.kernels")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if folder.name == "metasd" and parts[0] == "kernels":
                continue  # a link to kernels/
            if parts[-1] == "__init__":
                parts = parts[:-1]
            found[".".join([prefix, *parts])] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """The modules of the package that a module imports anywhere, but for `if TYPE_CHECKING`."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()

    def add(module: str, names: list[str]) -> None:
        inner = {f"{module}.{part}" for part in names if f"{module}.{part}" in MODULES}
        found.update(inner or {module})

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            add(module, [alias.name for alias in node.names])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return {module for module in found if module in MODULES and module != name}


GRAPH = {name: imports(name) for name in MODULES}


def test_no_module_is_part_of_a_circle() -> None:
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(GRAPH[name]):
                walk(other, (*path, name))
            done.add(name)

    for name in sorted(GRAPH):
        walk(name, ())


def test_a_room_uses_only_rooms_below_it() -> None:
    def floor(module: str) -> int:
        return ROOMS.index(module.split(".")[1])

    for name, used in GRAPH.items():
        if name in ("metasd", "metasd.__main__"):
            continue
        for other in used - {"metasd"}:
            assert floor(name) <= floor(other), f"{name} imports {other}"


def python_files() -> list[Path]:
    folders = ("metasd", "kernels", "benchmarks", "tests", "studies", "docs", "examples")
    files = [ROOT / "setup.py", *(p for folder in folders for p in (ROOT / folder).rglob("*.py"))]
    return [p for p in files if p.relative_to(ROOT).parts[:2] != ("metasd", "kernels")]


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_and_no_function_is_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 80, f"{node.name} has {length} lines"


def test_the_package_is_entered_by_few_doors() -> None:
    ignored = ("_C.", "__pycache__", "kernels")
    entries = [p.name for p in (ROOT / "metasd").iterdir() if not p.name.startswith(ignored)]
    assert len(entries) <= 18, sorted(entries)
