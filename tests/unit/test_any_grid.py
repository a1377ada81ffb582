"""Whatever a grid has and lacks, its cards become tables, figures and a report; nothing is drawn that fails."""

import random
from pathlib import Path

import pytest
import yaml

from keyhole.planning import config
from keyhole.planning.roles import CLEAN, DEFENSES, RETRAINING, ROLES, SEPARABILITY
from keyhole.reporting import figures, report
from keyhole.reporting.columns import columns_of_table
from keyhole.reporting.figures import FIGURES
from keyhole.reporting.runs import CONTROLS, frame
from keyhole.reporting.tables import tabulate
from keyhole.scoring.flags import FLAGS

ROOT = Path(__file__).parents[2]
GRIDS = [ROOT / "config.yaml", *sorted((ROOT / "grids").glob("*.yaml"))]
ATTACKS = {  # label -> method, what it controls, cover rows for each payload row
    "badnets": ("badnets", "dirty-label", 0),
    "adap_patch": ("adap_patch", "dirty-label", 2),
    "no_cover": ("adap_patch", "dirty-label", 0),
    "sig": ("sig", "clean-label", 0),
    "hidden": ("mmd", "training", 0),
}


def some(draw, values, least=0):
    values = list(values)
    return draw.sample(values, draw.randint(min(least, len(values)), len(values)))


def measured(draw, table):
    """A number for each column of a table; now and then one is missing."""
    columns = [c for how in ("mean", "interval") for c in columns_of_table(table, how) if "<" not in c.name]
    return {column.name: draw.random() for column in columns if draw.random() > 0.02}


def grid(draw):
    """Cards of victims of random settings, each with the same random defenses, some of which failed."""
    attacks = some(draw, ATTACKS)
    defenses = {role: some(draw, ["first", "second", *CONTROLS[1:]]) for role in some(draw, DEFENSES)}
    levels, retrained = some(draw, ["stem", "penultimate"]), draw.random() < 0.5
    rows = []
    for dataset in some(draw, ["digits", "mine"], 1):
        for model, recipe in some(draw, [("convnet", "cpu"), ("convnet", "sharp"), ("resnet18", "cpu")], 1):
            for seed in some(draw, range(3), 1):
                for attack, rate in [(CLEAN, 0.0), *((a, r) for a in attacks for r in some(draw, [0.003, 0.05], 1))]:
                    place = {"dataset": dataset, "model": model, "recipe": recipe, "attack": attack}
                    place |= {"poison_rate": rate, "seed": seed}
                    rows += victim(draw, place, defenses, levels, retrained)
    return rows


def victim(draw, place, defenses, levels, retrained):
    method, controls, ratio = ATTACKS.get(place["attack"], (CLEAN, "labels", 0))
    payload = 0 if place["attack"] == CLEAN else draw.choice([0, 1, 40])
    common = {**place, "controls": controls, "told": "", "target_share": 10 * place["poison_rate"]}
    common["target_classes"] = [0, 1] if draw.random() < 0.2 else [0] * bool(payload)
    flags = draw.sample([*FLAGS], draw.choice([0, 0, 0, 1, 2]))
    own = {"role": "attack", "defense": "none", "status": "ok", "flags": flags, "method": method, "payload": payload}
    yield {**common, **measured(draw, "attacks"), **own, "cover": ratio * payload}
    for level in levels if payload else ():
        for transform in ("raw", "standardized", "whitened"):
            row = {"role": SEPARABILITY.noun, "defense": "none", "level": level, "transform": transform, "flags": []}
            yield {**common, **measured(draw, "separability"), **row}
    for role, labels in defenses.items():
        for label in labels:
            row = {
                **common,
                "role": ROLES[role].noun,
                "defense": label,
                "flags": [],
                "told": draw.choice(["", "payload"]),
            }
            if draw.random() < 0.2:
                yield {**row, "status": "failed", "reason": "ValueError: by design"}
                continue
            found = {**row, **measured(draw, ROLES[role].table), "status": "ok", "CA_victim": 0.9, "ASR_victim": 0.9}
            yield found
            if role == "detectors" and retrained:
                yield {**found, **measured(draw, "repair"), "role": RETRAINING.noun}


def published_grid(file, draw):
    """Cards of a committed grid, of one seed: its cells with its defenses."""
    planned = config.load(yaml.safe_load(file.read_text()), file.name)
    defenses = {role: planned.labels(role) for role in DEFENSES}
    for cell in planned.cells():
        if cell.seed == planned.seeds[0]:
            place = {"dataset": cell.dataset, "model": cell.model, "recipe": planned.recipe_name(cell.folder)}
            place |= {"attack": cell.attack, "poison_rate": float(cell.rate), "seed": cell.seed}
            retrained = bool(planned.retrained(cell.attack, cell.rate, cell.seed))
            yield from victim(draw, place, defenses, planned.levels, retrained)


@pytest.mark.parametrize("seed", range(16))
def test_any_grid_has_tables_figures_and_a_report(seed, tmp_path, caplog):
    check(grid(random.Random(seed)), tmp_path, caplog)


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_every_committed_grid_has_tables_figures_and_a_report(file, tmp_path, caplog):
    check(published_grid(file, random.Random(0)), tmp_path, caplog)


def check(cards, tmp_path, caplog):
    tabulate(frame(cards)).write(tmp_path / "tables")
    paths = [tmp_path / f"figures/{name}.png" for name in FIGURES]
    figures.draw([tmp_path / "tables/cards.csv", tmp_path / "tables/detection.csv"], paths)
    assert not caplog.records, "no figure fails: what is missing is left out of it"
    assert all(path.exists() for path in paths)
    report.write(tmp_path / "report.html", {"summary": "", "tables": [], "provenance": {}}, "", paths)
