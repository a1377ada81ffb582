"""What moves a code hash and what does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keyhole.planning import hashes as module

FILES = {
    "__init__.py": "",
    "attacks/__init__.py": "from keyhole.types import Images\n\nclass Attack:\n    pass\n",
    "attacks/wanet.py": "from keyhole.attacks import Attack, _warp\n\nclass WaNet(Attack):\n    k = 4\n",
    "attacks/_warp.py": "from ..common import scale\n\ndef warp(x):\n    return scale(x)\n",
    "attacks/badnets.py": "from . import Attack\n\nclass BadNets(Attack):\n    size = 3\n",
    "common.py": 'def scale(x):\n    """Twice."""\n    return 2 * x\n',
    "types.py": (
        "import typing\nfrom typing import TYPE_CHECKING\n\n"
        "if TYPE_CHECKING:\n    from keyhole.plots import draw\n"
        "if typing.TYPE_CHECKING:\n    import keyhole.tables\nelse:\n    import keyhole.runtime\n"
        "Images = list\n"
    ),
    "plots.py": "def draw():\n    return 1\n",
    "tables.py": "def table():\n    return 1\n",
    "runtime.py": "from keyhole.planning import registry\n\nx = 1\n",
    "planning/__init__.py": "",
    "planning/registry.py": "x = 1\n",
}
WANET, BADNETS = "keyhole.attacks.wanet", "keyhole.attacks.badnets"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "keyhole"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "PACKAGE", root)
    return root


def hashes(**options: tuple[str, ...]) -> tuple[str, str]:
    """The hashes that a fresh process would get for two attacks."""
    module.code_hash.cache_clear()
    return module.code_hash(WANET, **options), module.code_hash(BADNETS, **options)


@pytest.mark.parametrize(
    ("file", "old", "new", "wanet_moves", "badnets_moves"),
    [
        ("attacks/wanet.py", "k = 4", "k = 5", True, False),
        ("attacks/badnets.py", "size = 3", "size = 4", False, True),
        ("attacks/_warp.py", "scale(x)", "scale(x) + 1", True, False),
        ("common.py", "2 * x", "3 * x", True, False),
        ("attacks/__init__.py", "pass", "a = 1", True, True),
        ("__init__.py", "", "a = 1\n", True, True),
        ("types.py", "= list", "= tuple", True, True),
        ("runtime.py", "x = 1", "x = 2", True, True),
        ("plots.py", "return 1", "return 2", False, False),
        ("planning/registry.py", "x = 1", "x = 2", False, False),
        ("tables.py", "return 1", "return 2", False, False),
        ("types.py", "from keyhole.plots import draw", "from keyhole.tables import table", False, False),
        ("common.py", "Twice.", "Two times.", False, False),
        ("common.py", '    """Twice."""\n', "", False, False),
        ("common.py", "return 2 * x", "# why\n    return (2 *   x)", False, False),
        ("common.py", "return 2 * x", "return 2.0 * x", True, False),
        ("common.py", "return 2 * x", "return x * 2", True, False),
    ],
)
def test_an_edit_moves_the_hashes_of_its_dependents_only(
    package: Path, file: str, old: str, new: str, wanet_moves: bool, badnets_moves: bool
) -> None:
    wanet, badnets = hashes()
    text = (package / file).read_text()
    assert old in text
    (package / file).write_text(text.replace(old, new, 1))
    after = hashes()
    assert (after[0] != wanet, after[1] != badnets) == (wanet_moves, badnets_moves)


def test_touch_and_an_unrelated_module_move_nothing(package: Path) -> None:
    before = hashes()
    (package / "attacks" / "sig.py").write_text("from keyhole.attacks import Attack\n")
    for file in package.rglob("*.py"):
        os.utime(file, (0, 0))
    assert hashes() == before


def test_the_folder_does_not_count(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hashes()
    package.rename(tmp_path / "elsewhere")
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "elsewhere")
    assert hashes() == before


def test_a_script_counts_with_what_it_imports(package: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import numpy\nfrom keyhole import plots\n\nplots.draw()\n")
    files = (str(script),)
    before = hashes(files=files)
    assert before != hashes()
    script.write_text("import numpy\nfrom keyhole import plots  # figures\n\nplots.draw()\n")
    assert hashes(files=files) == before
    (package / "plots.py").write_text("def draw():\n    return 2\n")
    moved = hashes(files=files)
    assert moved[0] != before[0]
    script.write_text("from keyhole import plots\n\nplots.draw(1)\n")
    assert hashes(files=files)[0] != moved[0]


def test_order_of_the_modules_does_not_count(package: Path) -> None:
    module.code_hash.cache_clear()
    assert module.code_hash(WANET, BADNETS) == module.code_hash(BADNETS, WANET)


def test_a_process_keeps_to_the_code_it_started_with(package: Path) -> None:
    before = hashes()
    (package / "common.py").write_text("def scale(x):\n    return 5 * x\n")
    assert (module.code_hash(WANET), module.code_hash(BADNETS)) == before
    assert hashes() != before


@pytest.mark.parametrize("constant", ["None", "''", "0", "False", "()", "..."])
def test_constants_that_look_alike_are_told_apart(package: Path, constant: str) -> None:
    file = package / "common.py"
    file.write_text("def scale(x):\n    return\n")
    before = hashes()
    file.write_text(f"def scale(x):\n    return {constant}\n")
    assert hashes()[0] != before[0]


def test_if_not_type_checking_counts(package: Path) -> None:
    before = hashes()
    file = package / "types.py"
    file.write_text(file.read_text().replace("if TYPE_CHECKING", "if not TYPE_CHECKING"))
    assert hashes()[0] != before[0]


def test_unknown_module_and_script_are_refused(package: Path) -> None:
    with pytest.raises(ValueError, match=r"keyhole\.attacks\.nope"):
        module.code_hash("keyhole.attacks.nope")
    with pytest.raises(ValueError, match=r"nope\.py"):
        module.code_hash(files=("nope.py",))


def test_the_library_itself_can_be_hashed() -> None:
    module.code_hash.cache_clear()
    found = {module.code_hash(f"keyhole.attacks.{name}") for name in ("none", "badnets", "blended")}
    assert len(found) == 3
    assert all(len(digits) == 16 for digits in found)


def test_code_hash_imports_no_torch() -> None:
    code = (
        "import sys; from keyhole.planning import hashes;"
        "hashes.code_hash('keyhole.learning.training', 'keyhole.attacks.badnets');"
        "print({'torch', 'numpy', 'jaxtyping'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
