"""Files that are no configuration: one line, with the file, the line, and what is wrong."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keyhole.planning import reading
from keyhole.planning.config import ConfigError

ROOT = Path(__file__).parents[2]
GRIDS = ["config.yaml", *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "grids").glob("*.yaml"))]
GOOD = "datasets: [digits]\nmodels: [convnet]\n"
MANY = "x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]\n" for i in range(1, 9)
)

BAD: list[tuple[str | bytes, str]] = [
    ("attacks:\n  badnets: {size: 3}\n  badnets: {size: 5}\n", r"attacks.badnets: .*stands twice, in lines 2 and 3"),
    ("seeds: [0]\nmodels: [convnet]\nseeds: [1]\n", r"seeds: .*stands twice, in lines 1 and 3"),
    ("attacks: {blended: {alpha: 0.1, 'alpha': 0.3}}\n", r"attacks.blended.alpha: .*stands twice, in lines 1 and 1"),
    ("skip:\n- {why: a}\n- {why: a,\n   why: b}\n", r"skip\[1\].why: .*stands twice, in lines 3 and 4"),
    ('{"seeds": [0],\n\t"seeds": [1]}', r"seeds: .*stands twice, in lines 1 and 2"),
    (f"{GOOD}attacks:\n\tbadnets: {{}}\n", r"line 4, column 1: .*'\\t'.*indent with spaces"),
    (f"{GOOD}seeds: [0, 1\nholdout: 3\n", r"line 4, column 8: expected ',' or '\]'.*which began in line 3"),
    (f"{GOOD}results: 'here\n", r"line 4, column 1: found unexpected end of stream.*which began in line 3"),
    (f"{GOOD}attacks: *all\n", r"line 3, column 10: found undefined alias 'all'"),
    (f"{GOOD}---\n{GOOD}", r"line 3, column 1: but found another document"),
    ("models: !!python/object/apply:os.system ['true']\n", r"line 1, column 9: could not determine a constructor"),
    ("attacks: &a\n  badnets: *a\n", r"attacks.badnets: the alias stands for what it is in .line "),
    ("a: &a [*b]\nb: &b [*a]\n", r"line 1, column 8: found undefined alias 'b'"),
    ("? [a, b]\n: c\n", r"line 1, column 3: expected a word as a key"),
    ("", r"expected keys such as datasets, models, attacks, got an empty file"),
    ("# nothing\n", r"got an empty file"),
    ("- digits\n", r"expected keys such as datasets, models, attacks, got a list"),
    ("datasets:[digits]\n", r'got "datasets:\[digits\]"; a space must follow each colon'),
    ("digits", r'expected keys .*, got "digits"$'),
    ("42", r"expected keys .*, got 42$"),
    ("null", r"expected keys .*, got null$"),
    (f"{GOOD}# caf\xe9\n".encode("latin-1"), r"line 3: expected text in UTF-8, got the byte 0xe9; save the"),
    (GOOD.encode("utf-16"), r"line 1: expected text in UTF-8, got UTF-16"),
    (b"PK\x03\x04\x00\x00binary", r"expected text, got the character #x0003"),
    ("a: " + "[" * 5000 + "]" * 5000, r"expected at most 100 lists and mappings inside each other"),
    ("a: " + "[" * 150 + "]" * 150, r"expected at most 100 lists and mappings inside each other"),
    ("[" * 100_000, r"expected at most 100 lists and mappings inside each other"),
    (MANY, r"expected at most 1000000 values"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "complaint"), BAD, ids=lambda value: str(value)[:50])
def test_what_is_no_configuration_is_answered_in_one_line(tmp_path: Path, content: str | bytes, complaint: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        reading.read(file)
    said = str(caught.value)
    assert said.startswith(f"{file}: ")
    assert re.search(complaint, said), said
    assert "\n" not in said


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "cifar10_cpu.yaml").touch()
    for name, complaint in {
        "cifar10_cpu": f"no such file; did you mean {tmp_path / 'cifar10_cpu.yaml'}?",
        "other/grid.yaml": "no such file",
        ".": "cannot be read (Is a directory)",
        "x" * 5000: "cannot be read (File name too long)",
        "a\0b": "cannot be read (embedded null byte)",
    }.items():
        with pytest.raises(ConfigError) as caught:
            reading.read(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {complaint}"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD, {"datasets": ["digits"], "models": ["convnet"]}),
        (f"\ufeff{GOOD}", {"datasets": ["digits"], "models": ["convnet"]}),
        (json.dumps({"seeds": [0], "holdout": 1e-3}, indent="\t"), {"seeds": [0], "holdout": 1e-3}),
        ("x-a: &a {size: 3}\nb: {<<: *a, corner: 1}\n", {"x-a": {"size": 3}, "b": {"size": 3, "corner": 1}}),
        ("x-a: &a {size: 3}\nb: {<<: *a, size: 4}\n", {"x-a": {"size": 3}, "b": {"size": 4}}),
    ],
    ids=["plain", "byte order mark", "JSON with tabs", "merged", "merged and changed"],
)
def test_what_yaml_and_json_allow_is_read(tmp_path: Path, content: str, expected: dict) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    assert reading.read(tmp_path / "mine.yaml") == expected


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_of_the_repository_is_read(grid: str) -> None:
    assert reading.read(ROOT / grid)["datasets"]


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize("goal", ["run", "tables", "retry"])
@pytest.mark.parametrize("grid", ["nothere.yaml", "my grid.yaml", "twice.yaml"])
def test_make_says_in_one_line_what_is_wrong_with_a_grid(tmp_path: Path, goal: str, grid: str) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for file in ("requirements.lock", "pyproject.toml"):
        (tmp_path / file).touch()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/installed").touch()
    (tmp_path / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / ".venv/bin/python").chmod(0o755)
    (tmp_path / "twice.yaml").write_text("seeds: [0]\nseeds: [1]\n")
    done = subprocess.run(["make", goal, f"GRID={grid}"], cwd=tmp_path, capture_output=True, text=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert len(said) == 1, said
    assert said[0].startswith(f"{grid}: ")
