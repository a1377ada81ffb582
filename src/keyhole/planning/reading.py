"""Read the file of a configuration more strictly than YAML asks for, and complain in one line with file and line.

YAML lets the last of two equal keys win, so that an attack could vanish without a word.

`python -m keyhole.planning.reading grids/qi2023_cpu.yaml` says what is wrong with a file, if anything. Snakemake reads
what is given with `--configfile` before it runs any code of ours, and names no line; `make` asks first.
"""

import difflib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from keyhole.planning.config import ConfigError

__all__ = ["read"]

EXPECTED = "keys such as datasets, models, attacks"
MOST = 1_000_000  # values in a file, each alias counted as what it stands for
DEEPEST = 100  # lists and mappings inside each other
TOO_DEEP = f"expected at most {DEEPEST} lists and mappings inside each other"


def read(file: str | Path) -> dict[str, Any]:
    """Read a configuration.

    Raises:
        ConfigError: there is no such file, it is no YAML, a key stands twice, or it holds no mapping.
    """
    try:
        return _read(Path(file))
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{file}: {_place(error.problem_mark)}{_words(error)}") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"{file}: expected text, got the character #x{error.character:04x}") from None
    except RecursionError:
        raise ConfigError(f"{file}: {TOO_DEEP}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None


def _read(file: Path) -> dict[str, Any]:
    text = _text(file)
    try:
        plain = json.loads(text)
        text = text.replace("\t", " ")  # JSON may be indented with tabs, which YAML refuses
    except ValueError:
        plain = None
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise ValueError(f"expected {EXPECTED}, got an empty file")
        _check(root)
        given = loader.construct_document(root) if plain is None else plain
    finally:
        loader.dispose()
    if not isinstance(given, dict):
        raise ValueError(f"expected {EXPECTED}, got {_named(given)}")
    return given


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        beside = [str(other) for other in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
        close = difflib.get_close_matches(str(file), beside, n=1)
        raise ValueError(f"no such file{f'; did you mean {close[0]}?' if close else ''}") from None
    except (OSError, ValueError) as error:  # a folder, no permission, a name that no file can have
        raise ValueError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        found = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else f"the byte {content[error.start]:#x}"
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line}: expected text in UTF-8, got {found}; save the file as UTF-8") from None


def _check(root: yaml.Node) -> None:
    """Refuse a key that stands twice in a mapping, and aliases that stand for themselves or for too much."""
    sizes: dict[int, int] = {}  # of what was seen as a whole

    def size_of(node: yaml.Node, where: str, around: tuple[int, ...]) -> int:
        if id(node) in around:
            raise ValueError(f"{where}: the alias stands for what it is in (line {node.start_mark.line + 1})")
        if len(around) > DEEPEST:
            raise ValueError(f"{_place(node.start_mark)}{TOO_DEEP}")
        if id(node) not in sizes:
            inside: Iterable[tuple[yaml.Node, str]] = ()
            if isinstance(node, yaml.MappingNode):
                _check_keys(node, where)
                inside = ((each, f"{where}.{key.value}".lstrip(".")) for key, each in node.value)
            elif isinstance(node, yaml.SequenceNode):
                inside = ((each, f"{where}[{i}]") for i, each in enumerate(node.value))
            sizes[id(node)] = 1 + sum(size_of(each, name, (*around, id(node))) for each, name in inside)
        return sizes[id(node)]

    if size_of(root, "", ()) > MOST:
        raise ValueError(f"expected at most {MOST} values, got more, with each alias counted as what it stands for")


def _check_keys(mapping: yaml.MappingNode, where: str) -> None:
    seen: dict[tuple[str, str], yaml.Node] = {}
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{_place(key.start_mark)}expected a word as a key, got a list or a mapping")
        first = seen.setdefault((key.tag, key.value), key)
        if first is not key and key.tag != "tag:yaml.org,2002:merge":
            lines = f"lines {first.start_mark.line + 1} and {key.start_mark.line + 1}"
            name = f"{where}.{key.value}".lstrip(".")
            raise ValueError(f"{name}: the key stands twice, in {lines}, and only the last would count; give it once")


def _place(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def _words(error: yaml.MarkedYAMLError) -> str:
    """Return what YAML says, and where what it could not read began."""
    began = error.context_mark
    parts = [error.problem, error.context, f"which began in line {began.line + 1}" if began else ""]
    remedy = "; indent with spaces" if "'\\t'" in (error.problem or "") else ""
    return ", ".join(filter(None, parts)) + remedy


def _named(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    missing_space = "; a space must follow each colon" if ":" in str(value) else ""
    return f"{json.dumps(value, default=str)[:60]}{missing_space}"


def main() -> None:
    """Say what is wrong with the files that are named."""
    for file in sys.argv[1:]:
        try:
            read(file)
        except ConfigError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
