"""Published lengths beside ours: the large grid runs them, and the table of `grids/README.md` is true.

If a default or a grid changes, the failing test prints the table as it should be.
"""

from pathlib import Path

import pytest
import yaml

from keyhole.parameters import Checked
from keyhole.planning import config, registry

ROOT = Path(__file__).parents[2]
CPU_GRIDS = ["grids/xu2024_cpu.yaml", "grids/cifar10_cpu.yaml", "config.yaml"]
PAPER_GRID = "grids/xu2024.yaml"
ROLES = ("inverters", "repairers", "purifiers", "trainers")
OURS = {"bti_dbf", "bti_dbf_u", "bti_dbf_p"}  # methods whose default is our variant, and the entries that run it

BTI = {"pretrain_steps": 1000, "mask_steps": 400, "invert_steps": 600, "starts": 1, "batch": 128, "width": 32}
PUBLISHED = {  # by the sources that the page names
    ("inverters", "neural_cleanse"): {"epochs": 1000, "samples": 1000},
    ("inverters", "pixel"): {"epochs": 1000},
    ("inverters", "feature_re"): {"warmup": 100, "epochs": 400, "samples": 500, "width": 32},
    ("inverters", "unicorn"): {"warmup": 500, "epochs": 1000, "patch_steps": 10, "width": 32},
    ("inverters", "bti_dbf"): BTI,
    ("inverters", "mm_bd"): {"starts": 30},
    ("repairers", "fine_tuning"): {"epochs": 100, "batch": 256},
    ("repairers", "fine_pruning"): {"epochs": 100},
    ("repairers", "anp"): {"iterations": 2000},
    ("repairers", "ft_sam"): {"epochs": 100, "batch": 256},
    ("repairers", "bti_dbf_u"): {"rounds": 5, "unlearn_steps": 600, **BTI},
    ("purifiers", "autoencoder"): {"epochs": 100},
    ("purifiers", "bti_dbf_p"): {"rounds": 5, "purify_steps": 600, **BTI},
}
NO_LENGTHS = {"pixels"}  # whole numbers that grids set and that are not how long or how wide something is


def entries(file: str) -> list[tuple[str, str, Checked]]:
    """Role, label and method of every entry of a grid; hold-outs of several sizes are one entry."""
    grid = config.load(yaml.safe_load((ROOT / file).read_text()), file)
    found = {}
    for role in ROLES:
        for label in grid.labels(role):
            entry = grid.entry(role, label)
            plain = label.removesuffix(f"_{entry.holdout}")
            found[role, plain] = registry.load(role, entry.method, entry.parameters)
    return [(role, label, method) for (role, label), method in found.items()]


def lengths(role: str, method: Checked) -> dict[str, object]:
    return {name: getattr(method, name) for name in PUBLISHED.get((role, registry.name_of(method)), {})}


@pytest.fixture(scope="module")
def grids() -> dict[str, list[tuple[str, str, Checked]]]:
    return {file: entries(file) for file in [PAPER_GRID, *CPU_GRIDS]}


def table(grids: dict[str, list[tuple[str, str, Checked]]]) -> str:
    """The table of the page: a row for each length, and in the columns of grids nothing for methods they do not run."""
    names = [Path(file).stem if file.startswith("grids/") else file for file in CPU_GRIDS]
    columns = ["method", "parameter", "published", "default", *names]
    lines = [columns, ["---"] * 2 + ["---:"] * (len(columns) - 2)]
    for (role, name), published in PUBLISHED.items():
        default = lengths(role, registry.load(role, name))
        for parameter, value in published.items():
            if name in OURS - {"bti_dbf"} and parameter in BTI:
                continue  # as in the rows of `bti_dbf`
            cells = []
            for file in CPU_GRIDS:
                same = [m for r, _, m in grids[file] if r == role and registry.name_of(m) == name]
                cells.append(", ".join(dict.fromkeys(str(getattr(method, parameter)) for method in same)))
            first = parameter == next(iter(published))
            lines.append([f"`{name}`" if first else "", f"`{parameter}`", str(value), str(default[parameter]), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def test_large_grid_runs_what_was_published(grids):
    run = {(role, registry.name_of(method)): {} for role, _, method in grids[PAPER_GRID]}
    for role, label, method in grids[PAPER_GRID]:
        if label not in OURS:
            run[role, registry.name_of(method)][label] = lengths(role, method)
    for key, published in PUBLISHED.items():
        assert run[key], f"no entry runs the published {key}"
        assert all(found == published for found in run[key].values()), (key, run[key])


def test_released_methods_have_entries_that_say_so(grids):
    for role, label, method in grids[PAPER_GRID]:
        if registry.name_of(method) in OURS:
            assert (method.parameters["variant"] == "released") == ("released" in label), (role, label)


def test_page_has_the_lengths_that_are_published_default_and_run(grids):
    wanted = table(grids)
    assert wanted in (ROOT / "grids/README.md").read_text(), f"grids/README.md should hold\n\n{wanted}"


def test_every_length_that_a_grid_changes_is_in_the_table(grids):
    for file, found in grids.items():
        for role, label, method in found:
            default = registry.load(role, registry.name_of(method))
            changed = {name for name, value in method.parameters.items() if value != getattr(default, name)}
            whole = {name for name in changed if type(getattr(method, name)) is int}
            known = PUBLISHED.get((role, registry.name_of(method)), {}).keys() | NO_LENGTHS
            assert whole <= known, f"{file}: {role}.{label}"


def test_page_names_every_method():
    page = (ROOT / "grids/README.md").read_text()
    assert [name for role in ROLES for name in registry.names(role) if f"`{name}`" not in page] == []
