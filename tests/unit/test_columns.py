"""One record for each column: tables, rendered tables and the legend follow from it."""

import re
from pathlib import Path

import pytest

from keyhole.reporting import columns, legend, rendering
from keyhole.reporting._column import Column
from keyhole.reporting.layouts import LAYOUTS
from keyhole.reporting.runs import frame, read
from keyhole.reporting.tables import tabulate
from keyhole.scoring import model_detection, separability
from keyhole.scoring.flags import FLAGS

ROOT = Path(__file__).parents[2]
PLACE = {"dataset": "digits", "model": "convnet", "attack": "badnets", "poison_rate": 0.1, "seed": 0}


@pytest.fixture
def cards():
    victim = {"role": "attack", "defense": "none", "CA": 0.9, "ASR": 1.0, "RA": 0.0, "flags": []}
    detector = {"role": "detector", "defense": "scan", "flags": [], "AUROC": 0.7, "novelty": 0.25}
    latents = {"role": "separability", "defense": "none", "flags": [], "level": "stem", "transform": "raw"}
    return frame([{**PLACE, **card} for card in (victim, detector, latents | {"silhouette": 0.5})])


def test_a_new_metric_is_one_record(cards, tmp_path, monkeypatch):
    record = Column("novelty", "share", "how new the rows are", "detection", "detection", "new rows", after="TPR")
    monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, record))
    tabulate(cards).write(tmp_path)
    table = read(tmp_path / "detection.csv")
    assert table["novelty"].tolist() == [0.25]
    assert "novelty_interval" in table
    text = (tmp_path / "detection.md").read_text()
    assert "| TPR | new rows | FPR |" in text
    assert "| 25.0 |" in text
    assert "| `novelty` | detection | share | how new the rows are |" in legend.column_sections()


def test_the_legend_is_what_the_records_say():
    text = (ROOT / "results/README.md").read_text()
    assert legend.update(text) == text, "stale: `make format` writes it anew"


def test_the_legend_explains_every_flag():
    text = (ROOT / "results/README.md").read_text()
    assert [name for name in FLAGS if f"`{name}`" not in text] == []


def test_every_column_of_every_table_and_of_cards_has_a_meaning(cards, tmp_path):
    tabulate(cards).write(tmp_path)
    for name in ("cards", *columns.TABLES):
        for column in set(read(tmp_path / f"{name}.csv")) - {"novelty"}:
            assert columns.find(column).meaning, column


@pytest.mark.parametrize(
    "published", sorted(path.parents[1].name for path in (ROOT / "published").glob("*/tables/cards.csv"))
)
def test_every_published_card_can_be_read_with_the_legend(published):
    names = (ROOT / f"published/{published}/tables/cards.csv").read_text().partition("\n")[0].split(",")
    assert all(columns.find(name).meaning for name in names)


def test_what_is_scored_has_a_record():
    wanted = [*separability.COLUMNS, *model_detection.COLUMNS]
    assert [column.name for column in columns.columns_of_table("separability", "interval")] == list(
        separability.COLUMNS
    )
    assert all(columns.find(name) for name in wanted)


def test_records_name_tables_and_sections_that_exist():
    sections = {group.section for layout in LAYOUTS.values() for group in layout.groups}
    assert tuple(LAYOUTS) == columns.TABLES
    for column in columns.COLUMNS:
        assert set(column.tables.split()) <= set(columns.TABLES), column.name
        assert set(column.shown.split()) <= sections, column.name
        assert not column.after or columns.find(column.after)
        assert column.unit in rendering.SCALE_AND_DIGITS or column.unit in ("words", "rate", "yes or no")
    names = [column.name for column in columns.COLUMNS]
    assert len(names) == len(set(names))


def test_a_column_without_a_record_is_named():
    with pytest.raises(KeyError, match=re.escape("no record of column 'unheard_of'")):
        columns.find("unheard_of")


def test_columns_follow_the_one_that_they_belong_to():
    names = [column.name for column in columns.columns_of_section("attacks")]
    assert names[names.index("CA") : names.index("RA")] == ["CA", "CA_reference", "ASR", "ASR_natural"]
    names = [column.name for column in columns.columns_of_section("separability")]
    assert names[2:8] == ["level", "transform", "distance_auroc", "lda_auroc", "svm_auroc", "silhouette"]
