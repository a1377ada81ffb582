"""Check every annotation of the package while tests run: shapes by jaxtyping, types by beartype.

Tests of the workflow get copies of the source tree with a tiny grid that has run once. They edit a copy and count the
jobs that would run again.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the suite may share its cores
install_import_hook("keyhole", "beartype.beartype")

from tests import pretended_gpu  # noqa: E402

pretended_gpu.register()  # autograd counts devices when it first runs

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "rules", "workflow_scripts", "src", "profiles", "slurm", "grids", "config.yaml")

TINY = {
    "datasets": ["digits"],
    "models": ["convnet"],
    "poison_rates": [0.05],
    "seeds": [0],
    "holdout": 100,
    "recipe": {"name": "cpu", "epochs": 2},
    "attacks": {"badnets": {}, "blended": {}},
    "detectors": {"spectral_signatures": {}, "activation_clustering": {}},
    "retrain": False,
    "filters": {"strip": {"overlays": 4}},
    "screened_images": 20,
}


SLOW = ("workflow", "end_to_end")  # folders whose tests start Snakemake


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of these folders as slow; other slow tests carry the mark themselves."""
    for item in items:
        if item.path.relative_to(ROOT / "tests").parts[0] in SLOW:
            item.add_marker(pytest.mark.slow)


@dataclass
class Tree:
    """A copy of the source tree with its own configuration."""

    root: Path

    def write(self, **changes: Any) -> None:
        """Write the tiny grid with some of its sections replaced, or left out if they are None."""
        sections = {key: value for key, value in {**TINY, **changes}.items() if value is not None}
        (self.root / "config.yaml").write_text(json.dumps(sections))  # JSON is YAML

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
        done = subprocess.run(command, cwd=self.root, env=self.environment(), capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(arguments)} failed\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return done

    def environment(self) -> dict[str, str]:
        """Return an environment in which Python imports this tree's package, not the installed one."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PYTHONPATH": str(self.root / "src"), "PATH": path}

    def would_run(self, *arguments: str) -> dict[str, int]:
        """Return rule -> number of its jobs that a run would start."""
        done = self.snakemake("-n", "--quiet", "rules", *arguments)
        lines = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.M)
        return {rule: int(count) for rule, count in lines if rule not in ("total", "all")}

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.root / file
        text = path.read_text()
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new, 1))


def copy_of_the_tree(target: Path) -> Tree:
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / part)
    return Tree(target)


@pytest.fixture(scope="session")
def copied() -> Callable[[Path], Tree]:
    """A function that copies the source tree to a folder."""
    return copy_of_the_tree


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Tree:
    """A tree in which the tiny grid has run. Tests must not edit it; they edit `tree`."""
    root = tmp_path_factory.mktemp("finished")
    tree = copy_of_the_tree(root)
    tree.write()
    tree.snakemake()
    return tree


@pytest.fixture
def tree(finished, tmp_path) -> Tree:
    """A copy of the finished tree, with Snakemake's records."""
    shutil.copytree(finished.root, tmp_path / "tree")
    return Tree(tmp_path / "tree")


@pytest.fixture
def fresh(tmp_path) -> Tree:
    """A copy of the source tree in which nothing has run."""
    (tmp_path / "fresh").mkdir()
    made = copy_of_the_tree(tmp_path / "fresh")
    made.write()
    return made
