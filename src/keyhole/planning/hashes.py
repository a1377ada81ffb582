"""Hash the code that a job runs.

The hash is among the `params` of every job, so that an edit reruns exactly the cells that it can change. It covers the
modules that a job runs and all modules of the package that they import, except those in `INERT`. It is computed from
syntax trees, so comments, docstrings, layout and file times do not change it. No code is executed, and only import
statements are followed: the caller must name modules that are imported by `importlib`.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["PACKAGE", "code_hash", "is_inert", "modules_of", "source_digest"]

PACKAGE = Path(__file__).parents[1]
# Modules that check, name or describe but cannot change a number: nearly every job imports them, so an edit of one
# would rerun nearly everything. A recipe's numbers reach the jobs that train through their params.
INERT = (
    "keyhole.parameters",
    "keyhole.planning",
    "keyhole.learning.recipes",
    "keyhole.running.logs",
    "keyhole.running.origin",
)


@cache
def code_hash(*modules: str, files: tuple[str, ...] = ()) -> str:
    """Return sixteen hex digits that change when the code of these modules, or of a module that they import, changes.

    The result is cached, so that all jobs of one run are planned with the same code.

    Args:
        modules: dotted names, such as `keyhole.attacks.badnets`.
        files: paths of scripts outside the package; the hash depends on their names, but not on their folders.

    Raises:
        ValueError: a module or a script does not exist.
    """
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(_digests(modules, files).items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def modules_of(*modules: str, files: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the modules and scripts that `code_hash` covers, sorted."""
    return sorted(_digests(modules, files))


def _digests(modules: tuple[str, ...], files: tuple[str, ...]) -> dict[str, str]:
    """Return name -> digest for these modules and scripts, and for all modules that they import."""
    for module in modules:
        if not _file(module):
            raise ValueError(f"modules: expected modules of keyhole, got {module!r}")
    digests, todo = {}, [part for module in modules for part in _with_packages(module)]
    for file in map(Path, files):
        if not file.is_file():
            raise ValueError(f"files: expected paths of scripts, got {str(file)!r}")
        digests[file.name], imported = _scan(file.read_text(), "")
        todo += imported
    seen = set()
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        path = _file(module)
        if path and not is_inert(module):
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            digests[module], imported = _scan(path.read_text(), package)
            todo += imported
    return digests


def _file(module: str) -> Path | None:
    """Return the file of a module of the package, or None if it is not one."""
    top, *parts = module.split(".")
    path = PACKAGE.joinpath(*parts)
    candidates = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((file for file in candidates if top == "keyhole" and file.is_file()), None)


def source_digest(source: str) -> str:
    """Return a digest of the code of a source, without its comments, docstrings and layout."""
    return _scan(source, "")[0]


def is_inert(module: str) -> bool:
    """Return whether a module checks, names or describes, but cannot change a number."""
    return any(module == name or module.startswith(f"{name}.") for name in INERT)


def _with_packages(module: str) -> list[str]:
    """Return the packages that contain a module, whose `__init__` runs before it, and then the module."""
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


@cache
def _scan(source: str, package: str) -> tuple[str, tuple[str, ...]]:
    """Return a digest of a file's code, and the names that it may import from `keyhole`.

    Some of these names are not modules but names inside a module.
    """
    tree = _Strip().visit(ast.parse(source))
    imported = [part for name in _imports(tree, package) for part in _with_packages(name)]
    digest = hashlib.sha256()
    for token in _tokens(tree):
        digest.update(token.encode())
    return digest.hexdigest(), tuple({name: None for name in imported if name.split(".")[0] == "keyhole"})


class _Strip(ast.NodeTransformer):
    """Drop code without effect: docstrings, other constants as statements, `if TYPE_CHECKING:` blocks."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING") else node


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the dotted names that a syntax tree imports; relative imports are resolved in `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _tokens(node: Any) -> Iterator[str]:
    """Yield a syntax tree as text, without empty fields, since Python versions have different ones."""
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
