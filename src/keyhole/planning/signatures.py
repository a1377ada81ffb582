"""What a class of this package says about itself, read from its syntax tree.

The configuration is checked at every start of every job, where importing the methods, and torch with them, would cost
seconds. Base classes and aliases are followed through `from … import` inside the package.
"""

import ast
import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__all__ = ["REQUIRED", "Parameter", "class_constants", "class_parameters", "constant", "evaluate", "value"]

PACKAGE = Path(__file__).parents[1]
REQUIRED = "required"


@dataclass(frozen=True)
class Parameter:
    """A dataclass field, as written."""

    name: str
    annotation: str  # aliases written out, except those of `keyhole.parameters`
    default: str  # Python text, or `required`


def class_parameters(file: Path, class_name: str) -> dict[str, Parameter]:
    """The fields of a dataclass that its constructor takes, those of its base classes first."""
    found: dict[str, Parameter] = {}
    for source, node in _lineage(file, class_name):
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not _is_classvar(item):
                default = _default(item.value)
                if default is None:
                    found.pop(item.target.id, None)  # inherited, but no longer given
                else:
                    annotation = ast.unparse(_Expand(source).visit(copy.deepcopy(item.annotation)))
                    found[item.target.id] = Parameter(item.target.id, annotation, default)
    return found


def class_constants(file: Path, class_name: str) -> dict[str, Any]:
    """The values of a class's `ClassVar`s, those of its base classes included.

    Raises:
        TypeError: one is neither a literal nor a frozenset of literals.
    """
    found: dict[str, Any] = {}
    for source, node in _lineage(file, class_name):
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and not _is_classvar(item):
                found.pop(ast.unparse(item.target), None)  # a field takes a constant's place
            for name, expression in _assigned(item, found):
                try:
                    found[name] = value(expression)
                except Exception as error:
                    place = f"{source.name}: {class_name}.{name}"
                    raise TypeError(f"{place}: expected a literal or frozenset({{...}}), got {error}") from error
    return found


def constant(file: Path, name: str) -> Any:
    """The value of a module's constant; None where there is none."""
    found = _find(file, name)
    return value(found[1]) if found else None


def evaluate(file: Path, class_name: str, given: Mapping[str, Any], attribute: str) -> Any:
    """What a field, a constant or a property of one return statement of an instance with these parameters would be.

    None where there is no such attribute, or where it takes more than arithmetic on parameters to tell.
    """
    values = class_constants(file, class_name)
    for field in class_parameters(file, class_name).values():
        with suppress(Exception):  # a default that only the imported module can tell
            values[field.name] = value(ast.parse(field.default, mode="eval").body)
    values.update(given)
    if attribute in values:
        return values[attribute]
    for _, node in reversed(_lineage(file, class_name)):
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == attribute:
                with suppress(Exception):
                    return value(item.body[-1].value, self=SimpleNamespace(**values))  # type: ignore[attr-defined]
                return None
    return None


def value(node: ast.AST, **known: Any) -> Any:
    """The value of an expression of our own code: literals, arithmetic, `frozenset`, and names given here."""
    code = compile(ast.Expression(node), "<constant>", "eval")  # type: ignore[arg-type]
    return eval(code, {"__builtins__": {"frozenset": frozenset, "tuple": tuple, "float": float}}, known)


@lru_cache(maxsize=512)
def _parse(source: str) -> ast.Module:
    return ast.parse(source)


def _find(file: Path, name: str) -> tuple[Path, ast.AST] | None:
    """Where a name of a module is defined, in this file or in one of the package that it is imported from."""
    for node in _parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return file, node
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return file, node.value
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    source = _imported_file(node, file)
                    return _find(source, alias.name) if source else None
    return None


def _imported_file(node: ast.ImportFrom, file: Path) -> Path | None:
    parts = node.module.split(".") if node.module else []
    if node.level:
        base = file.parents[node.level - 1]
    elif parts and parts[0] == "keyhole":
        base, parts = PACKAGE, parts[1:]
    else:
        return None
    path = base.joinpath(*parts)
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _lineage(file: Path, name: str) -> list[tuple[Path, ast.ClassDef]]:
    """A class after its base classes, as far as they are defined in the package; each once."""
    found = _find(file, name)
    if not found or not isinstance(found[1], ast.ClassDef):
        return []
    file, node = found[0], found[1]
    bases = [base.id for base in reversed(node.bases) if isinstance(base, ast.Name)]
    steps = [*(step for base in bases for step in _lineage(file, base)), (file, node)]
    return list({(source, each.name): (source, each) for source, each in steps}.values())


def _assigned(item: ast.stmt, inherited: Mapping[str, Any]) -> list[tuple[str, ast.expr]]:
    """Name and expression of a class constant: a `ClassVar` with a value, or a plain assignment to an inherited one."""
    if isinstance(item, ast.AnnAssign) and _is_classvar(item) and item.value:
        return [(ast.unparse(item.target), item.value)]
    targets = item.targets if isinstance(item, ast.Assign) else []
    return [(t.id, item.value) for t in targets if isinstance(t, ast.Name) and t.id in inherited]  # type: ignore


def _is_classvar(item: ast.AnnAssign) -> bool:
    return ast.unparse(item.annotation).startswith("ClassVar")


def _default(value: ast.expr | None) -> str | None:
    """A field's default as text; None for a field that the constructor does not take."""
    if not (isinstance(value, ast.Call) and ast.unparse(value.func) == "field"):
        return ast.unparse(value) if value else REQUIRED
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in value.keywords}
    if options.get("init") == "False":
        return None
    return options.get("default") or (f"{options['default_factory']}()" if "default_factory" in options else REQUIRED)


class _Expand(ast.NodeTransformer):
    """Writes out aliases such as `Corner = Literal["top", "bottom"]`."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def visit_Name(self, node: ast.Name) -> ast.AST:
        found = _find(self.file, node.id)
        if not found or found[0] == PACKAGE / "parameters.py" or isinstance(found[1], ast.ClassDef):
            return node
        return _Expand(found[0]).visit(copy.deepcopy(found[1]))
