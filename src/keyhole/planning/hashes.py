"""The hash of the code that a job runs.

It is among the `params` of every job, so that an edit reruns exactly the cells it can change: it covers the
modules a job runs and everything of the package they import, by their syntax trees, so comments, docstrings, layout
and file times do not count. Nothing is executed, and only what an import statement names is seen: a module chosen by
`importlib` must be named by the caller. `INERT` modules do not count.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["code_hash", "modules_of"]

PACKAGE = Path(__file__).parents[1]
# what checks, names and describes but cannot change a number; nearly every job imports it. A recipe's numbers reach
# the jobs that train through their params.
INERT = ("keyhole.parameters", "keyhole.planning", "keyhole.learning.recipes", "keyhole.running.origin")


@cache
def code_hash(*modules: str, files: tuple[str, ...] = ()) -> str:
    """Return sixteen hex digits that change when the code of these modules, or of what they import, does.

    Cached, so one process keeps to the code it started with.

    Args:
        modules: dotted names, `keyhole.attacks.badnets`.
        files: paths of scripts outside the package; their names count, their folders do not.

    Raises:
        ValueError: a module or a file does not exist.
    """
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(_digests(modules, files).items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def modules_of(*modules: str, files: tuple[str, ...] = ()) -> list[str]:
    """Return what `code_hash` covers: names of modules, and of scripts, sorted."""
    return sorted(_digests(modules, files))


def _digests(modules: tuple[str, ...], files: tuple[str, ...]) -> dict[str, str]:
    """Return name -> digest of these modules and scripts, and of all modules that they import."""
    for module in modules:
        if not _file(module):
            raise ValueError(f"expected a module of keyhole, got {module!r}")
    digests, todo = {}, [part for module in modules for part in _with_packages(module)]
    for file in map(Path, files):
        if not file.is_file():
            raise ValueError(f"expected a script, got {str(file)!r}")
        digests[file.name], imported = _scan(file.read_text(), "")
        todo += imported
    while todo:
        module = todo.pop()
        path = _file(module)
        if path and module not in digests and not _inert(module):
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            digests[module], imported = _scan(path.read_text(), package)
            todo += imported
    return digests


def _file(module: str) -> Path | None:
    top, *parts = module.split(".")
    path = PACKAGE.joinpath(*parts)
    candidates = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((file for file in candidates if top == "keyhole" and file.is_file()), None)


def _inert(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in INERT)


def _with_packages(module: str) -> list[str]:
    """A module after the packages around it, whose `__init__` run with it."""
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


@cache
def _scan(source: str, package: str) -> tuple[str, tuple[str, ...]]:
    """Digest of a file's code, and what it may import of `keyhole` (some are names inside a module, not modules)."""
    tree = _Strip().visit(ast.parse(source))
    imported = [part for name in _imports(tree, package) for part in _with_packages(name)]
    digest = hashlib.sha256()
    for token in _tokens(tree):
        digest.update(token.encode())
    return digest.hexdigest(), tuple(name for name in imported if name.split(".")[0] == "keyhole")


class _Strip(ast.NodeTransformer):
    """Drops what does nothing when run: docstrings, bare constants, `if TYPE_CHECKING:`."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING") else node


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _tokens(node: Any) -> Iterator[str]:
    """A syntax tree as text. Empty fields are left out: Python versions differ in which there are."""
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            if value is not None and value != [] and name not in ("ctx", "kind", "type_comment"):
                yield f" {name}="
                yield from _tokens(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for value in node:
            yield from _tokens(value)
        yield "]"
    else:
        yield f"{node!r} "
