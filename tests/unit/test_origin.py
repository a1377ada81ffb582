"""What a card says about its origin."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from keyhole.running import origin as module


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "keyhole"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "common.py").write_text("")
    monkeypatch.setattr(module, "PACKAGE", root)
    return root


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def commit() -> str:
    module.commit.cache_clear()
    return module.commit()


def test_commit_says_dirty_or_unknown(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "unknown", "no repository"
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "of somebody else's project")
    assert commit() == "unknown", "a repository that does not hold this package"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "all")
    clean = commit()
    assert 7 <= len(clean) <= 12
    assert int(clean, 16) >= 0
    (package / "common.py").write_text("x = 1\n")
    assert re.fullmatch(rf"{clean}\+dirty\.[0-9a-f]{{8}}", commit())
    dirty = commit()
    (package / "common.py").write_text("x = 2\n")
    assert commit() != dirty, "another change"
    (package / "common.py").write_text("x = 1\n")
    assert commit() == dirty, "the same change again"
    (package / "of mine.py").write_text("x = 1\n")
    assert commit() != dirty, "an untracked file"
    monkeypatch.setenv("PATH", "")
    assert commit() == "unknown", "no git"
    module.commit.cache_clear()


def test_origin_is_flat_text() -> None:
    card = module.origin()
    assert set(card) == {"commit", "versions", "hardware"}
    assert all(isinstance(value, str) and value for value in card.values())
    assert f"python {sys.version_info.major}." in card["versions"]
    assert module.versions()["torch"][0].isdigit()


def test_hardware_names_the_gpu_once_torch_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert module.hardware(import_torch=True).endswith(", a GPU")
    monkeypatch.delitem(sys.modules, "torch")
    assert "GPU" not in module.hardware()


def test_origin_imports_no_torch() -> None:
    code = "import sys; from keyhole.running import origin; origin.origin();"
    code += "print({'torch', 'numpy', 'jaxtyping'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
