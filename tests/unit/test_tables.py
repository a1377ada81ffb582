"""Means, intervals, exclusion and failure on cards small enough to compute by hand; and what is written."""

import itertools
import math

import pandas as pd
import pytest

from keyhole import artifacts
from keyhole.reporting import tables
from keyhole.reporting.columns import TABLES
from keyhole.reporting.runs import KEY, collect, frame, read

T_3 = 4.302652729911275  # Student's t, 2 degrees of freedom, 97.5 %
SEEDS = (0, 1, 2)
AUROC = {"scan": (0.90, 0.92, 0.97), "spectre_oracle": (0.5, 0.6, 0.7), "random_removal": (0.5, 0.5, 0.5)}


def cell(attack, rate, seed):
    return {"dataset": "digits", "model": "convnet", "attack": attack, "poison_rate": rate, "seed": seed}


def victim(attack, rate, seed, **columns):
    measured = {"CA": 0.90 + 0.01 * seed, "ASR": 0.98, "RA": 0.01, "ASR_natural": 0.0, "CA_reference": 0.93}
    if attack == "none":
        measured |= {"ASR": math.nan, "RA": math.nan, "ASR_natural": math.nan}
    start = {"role": "attack", "defense": "none", "told": "", "status": "ok", "reason": "", "controls": "dirty-label"}
    return {
        **cell(attack, rate, seed),
        **start,
        "target_share": 0.25,
        "flags": [],
        "cpu_seconds": 2.0,
        **measured,
    } | columns


def defense(role, name, attack, rate, seed, **columns):
    start = {"role": role, "defense": name, "told": "", "status": "ok", "reason": "", "controls": "dirty-label"}
    return {**cell(attack, rate, seed), **start, "target_share": 0.25, "flags": [], "excluded": [], **columns}


def detector(name, attack, rate, seed, **columns):
    clean = attack == "none"
    measured = {"TPR": math.nan if clean else 0.8, "FPR": 0.1, "AUROC": math.nan if clean else AUROC[name][seed]}
    told = "poison_rate" if name.endswith("oracle") else ""
    return defense("detector", name, attack, rate, seed, **{**measured, "told": told, **columns})


@pytest.fixture
def cards():
    """Two attacks at two rates, three seeds, three detectors, and the clean model."""
    places = [("badnets", 0.003), ("badnets", 0.01), ("blended", 0.003), ("blended", 0.01), ("none", 0.0)]
    rows = [victim(*place, seed) for place, seed in itertools.product(places, SEEDS)]
    rows += [detector(name, *place, seed) for name, place, seed in itertools.product(AUROC, places, SEEDS)]
    return rows


def changed(cards, wanted, **columns):
    """The cards, with columns replaced where all of `wanted` fits."""
    fits = [all(card[key] == value for key, value in wanted.items()) for card in cards]
    assert any(fits)
    return [card | columns if fit else card for card, fit in zip(cards, fits, strict=True)]


def tabulated(cards, name="detection"):
    return tables.tabulate(frame(cards)).values[name]


def row(table, **wanted):
    found = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    assert len(found) == 1
    return found.iloc[0]


BADNETS = {"attack": "badnets", "poison_rate": 0.003}


def test_means_and_intervals_are_those_computed_by_hand(cards):
    found = row(tabulated(cards), **BADNETS, defense="scan")
    assert found["AUROC"] == pytest.approx(0.93)
    deviation = math.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2)
    assert found["AUROC_interval"] == pytest.approx(T_3 * deviation / math.sqrt(3), abs=1e-6)
    assert (found["seeds"], found["judged"], found["excluded"], found["failed"]) == (3, 3, 0, 0)


def test_every_setting_has_one_row_and_the_clean_model_comes_first(cards):
    table = tabulated(cards)
    assert len(table) == 5 * 3
    assert not table.duplicated(KEY).any()
    assert table["attack"].tolist()[:3] == ["none"] * 3
    assert table["defense"].tolist()[:3] == ["random_removal", "scan", "spectre_oracle"]
    assert table["attack"].tolist()[3:] == ["badnets"] * 6 + ["blended"] * 6
    assert tabulated(cards, "attacks")["attack"].tolist() == ["none", "badnets", "badnets", "blended", "blended"]


def test_the_clean_model_has_false_positives_and_blanks(cards):
    found = row(tabulated(cards), attack="none", defense="scan")
    assert found["FPR"] == pytest.approx(0.1)
    assert math.isnan(found["TPR"])
    assert math.isnan(found["AUROC"])


def test_told_and_target_share_are_in_every_row(cards):
    table = tabulated(cards)
    assert set(table.loc[table["defense"] == "spectre_oracle", "told"]) == {"poison_rate"}
    assert set(table["target_share"]) == {0.25}


def test_one_seed_has_a_mean_and_no_interval(cards):
    found = row(tabulated([card for card in cards if card["seed"] == 0]), **BADNETS, defense="scan")
    assert found["AUROC"] == pytest.approx(0.90)
    assert math.isnan(found["AUROC_interval"])


def test_a_failed_run_leaves_the_mean_and_its_reason_stays(cards):
    wanted = {**BADNETS, "defense": "scan", "seed": 2}
    broken = {"status": "failed", "reason": "LinAlgError: singular", "AUROC": None, "TPR": None, "FPR": None}
    found = row(tabulated(changed(cards, wanted, **broken)), **BADNETS, defense="scan")
    assert found["AUROC"] == pytest.approx(0.91)
    assert (found["judged"], found["failed"]) == (2, 1)
    assert found["reason"] == "LinAlgError: singular (1/3)"


def test_a_defense_that_always_failed_keeps_its_row(cards, tmp_path):
    broken = {"status": "failed", "reason": "RuntimeError: a_b | 100%", "AUROC": None, "TPR": None, "FPR": None}
    made = tables.tabulate(frame(changed(cards, {"defense": "scan"}, **broken)))
    found = row(made.values["detection"], **BADNETS, defense="scan")
    assert (found["judged"], found["failed"]) == (0, 3)
    assert math.isnan(found["AUROC"])
    made.write(tmp_path)
    assert "failed: RuntimeError: a_b \\| 100% (3/3)" in (tmp_path / "detection.md").read_text()
    assert r"a\_\allowbreak{}b | 100\%" in (tmp_path / "detection.tex").read_text()


def test_an_excluded_victim_leaves_the_mean_of_defenses_only(cards):
    cards = changed(cards, {**BADNETS, "seed": 2, "role": "attack"}, ASR=0.5, flags=["attack_failed"])
    cards = changed(cards, {**BADNETS, "seed": 2, "role": "detector"}, excluded=["attack_failed"])
    found = row(tabulated(cards), **BADNETS, defense="scan")
    assert found["AUROC"] == pytest.approx(0.91)
    assert (found["judged"], found["excluded"]) == (2, 1)
    assert found["flags"] == "attack_failed(1/3)"
    attack = row(tabulated(cards, "attacks"), **BADNETS)
    assert attack["ASR"] == pytest.approx((0.98 + 0.98 + 0.5) / 3)
    assert (attack["judged"], attack["excluded"]) == (2, 1)


def test_a_row_without_a_judged_run_is_shown_in_brackets(cards, tmp_path):
    cards = changed(cards, {**BADNETS, "role": "attack"}, ASR=0.5, flags=["attack_failed"])
    made = tables.tabulate(frame(cards))
    found = row(made.values["detection"], **BADNETS, defense="scan")
    assert found["AUROC"] == pytest.approx(0.93)
    assert (found["judged"], found["excluded"], found["seeds"]) == (0, 3, 3)
    made.write(tmp_path)
    text = (tmp_path / "detection.md").read_text()
    assert "[0.930 ± 0.090]" in text
    assert "15 victims (3 of them clean), 3 fail the validity gate (attack_failed: 3), 12 judged." in text
    assert "45, of which 9 on excluded victims, 0 excluded for their own scores, 0 failed, 36 judged." in text
    assert "[badnets]" in made.summary


def test_a_run_with_broken_scores_is_excluded_for_itself(cards):
    made = tables.tabulate(
        frame(changed(cards, {**BADNETS, "defense": "scan", "seed": 0}, flags=["nan_latents"], AUROC=None))
    )
    assert row(made.values["detection"], **BADNETS, defense="scan")["AUROC"] == pytest.approx(0.945)
    assert any("1 excluded for their own scores" in line for line in made.rendered["detection"].captions)


def test_a_victims_flag_that_excludes_nothing_is_shown_beside_its_defenses(cards):
    cards = changed(cards, {**BADNETS, "role": "attack", "seed": 1}, flags=["majority_poisoned"])
    found = row(tabulated(cards), **BADNETS, defense="scan")
    assert found["flags"] == "majority_poisoned(1/3)"
    assert found["judged"] == 3


def test_an_undefined_value_of_one_run_leaves_the_mean_blank(cards):
    found = row(
        tabulated(changed(cards, {**BADNETS, "defense": "scan", "seed": 0}, AUROC=None)), **BADNETS, defense="scan"
    )
    assert math.isnan(found["AUROC"])
    assert found["FPR"] == pytest.approx(0.1)


def test_retrained_models_join_their_detector_and_count_their_own_seeds(cards):
    answers = {"CA": 0.91, "ASR": 0.04, "DER": 0.9}
    retrained = [defense("retraining", "scan", "badnets", 0.003, seed, **answers) for seed in (0, 1)]
    table = tabulated(cards + retrained)
    found = row(table, **BADNETS, defense="scan")
    assert (found["ASR_retrained"], found["retrained"], found["judged"]) == (pytest.approx(0.04), 2, 3)
    other = row(table, **BADNETS, defense="random_removal")
    assert other["retrained"] == 0
    assert math.isnan(other["ASR_retrained"])


def test_repairs_stand_beside_no_defense_and_the_removal_controls(cards):
    answers = {"CA": 0.88, "ASR": 0.05, "RA": 0.8, "DER": 0.95, "success_20": 1.0}
    cards += [defense("repairer", "fine_pruning", "badnets", 0.003, seed, **answers, told="holdout") for seed in SEEDS]
    cards += [defense("retraining", name, "badnets", 0.003, 0, **answers) for name in ("random_removal", "scan")]
    table = tabulated(cards, "repair")
    here = table[(table["attack"] == "badnets") & (table["poison_rate"] == 0.003)]
    assert here["defense"].tolist() == ["no_defense", "random_removal", "fine_pruning"]
    nothing = row(here, defense="no_defense")
    assert nothing["ASR"] == pytest.approx(0.98)
    assert nothing["CA"] == pytest.approx(0.91)
    assert (nothing["DER"], nothing["CA_drop"], nothing["success_20"]) == (0.5, 0, 0)
    assert row(here, defense="fine_pruning")["success_20"] == 1
    assert "success_20_interval" not in table


def test_filters_and_purifiers_are_two_groups(cards, tmp_path):
    cards += [defense("filter", "strip", "badnets", 0.003, seed, TPR=0.9, FPR=0.1, AUROC=0.95) for seed in SEEDS]
    cards += [defense("purifier", "shrink_pad", "badnets", 0.003, seed, CA=0.8, ASR=0.3) for seed in SEEDS]
    tables.tabulate(frame(cards)).write(tmp_path)
    filters, purifiers = (tmp_path / "test_time.md").read_text().split("## digits, convnet, ")[1:]
    assert filters.startswith("filters")
    assert "| strip |" in filters
    assert "no_defense" not in filters
    assert purifiers.startswith("purifiers")
    assert "| shrink_pad |" in purifiers
    assert "| no_defense |" in purifiers


def test_tables_and_page_have_tpr_at_equal_fpr(cards, tmp_path):
    """Methods set their thresholds at different false positive rates, so TPR / FPR cannot be compared across rows."""
    at = {"TPR_at_1%": 0.31, "TPR_at_5%": 0.62}
    cards = changed(cards, {"defense": "scan"}, **at)
    cards += [defense("filter", "strip", "badnets", 0.003, seed, TPR=0.9, FPR=0.1, **at) for seed in SEEDS]
    made = tables.tabulate(frame(cards))
    made.write(tmp_path)
    for name, method in (("detection", "scan"), ("test_time", "strip")):
        text = (tmp_path / f"{name}.md").read_text()
        assert "| TPR_at_1% |" in text
        assert "| TPR_at_5% |" in text
        (line, *_) = [line for line in text.splitlines() if f"| {method} |" in line and "badnets" in line]
        assert "| 31.0 ± 0.0 |" in line
        assert "| 62.0 ± 0.0 |" in line
    for heading, method in (("Detectors: TPR at 1 / 5 % FPR", "scan"), ("Filters: TPR at 1 / 5 % FPR", "strip")):
        below = made.summary.split(heading)[1].splitlines()[1:]
        assert next(line for line in below if line.startswith(f"  {method}")).count(" 31.0/ 62.0") >= 1


def test_yes_or_no_answers_are_counted(cards, tmp_path):
    cards += [defense("inverter", "pixel", "badnets", 0.003, seed, found=float(seed > 0)) for seed in SEEDS]
    made = tables.tabulate(frame(cards))
    found = row(made.values["inversion"], defense="pixel")
    assert found["found"] == pytest.approx(2 / 3, abs=1e-6)
    assert "found_interval" not in found
    made.write(tmp_path)
    assert "| 2/3 |" in (tmp_path / "inversion.md").read_text()


def test_the_silhouette_stands_beside_its_attack(cards):
    cards += [
        defense("separability", "none", "badnets", 0.003, seed, level="stem", transform=space, silhouette=value * seed)
        for seed, (space, value) in itertools.product(SEEDS, (("raw", 0.1), ("whitened", 0.3)))
    ]
    table = tabulated(cards, "attacks")
    assert row(table, **BADNETS)["silhouette_stem"] == pytest.approx(0.1)
    assert len(table) == 5
    spaces = tabulated(cards, "separability").set_index("transform")["silhouette"]
    assert spaces.to_dict() == pytest.approx({"raw": 0.1, "whitened": 0.3})


def test_files_read_back_as_fractions_and_render_as_percent(cards, tmp_path):
    tables.tabulate(frame(cards), [("sig on gtsrb", "too few rows of the class")]).write(tmp_path)
    names = set(TABLES)
    assert {path.name for path in tmp_path.iterdir()} == {"cards.csv", "costs.csv", "missing.csv", "rendered.json"} | {
        f"{n}.{s}" for n in names for s in ("csv", "md", "tex")
    }
    read = pd.read_csv(tmp_path / "attacks.csv", keep_default_na=False, na_values=[""])
    assert row(read, **BADNETS)["CA"] == pytest.approx(0.91)
    markdown, latex = ((tmp_path / f"attacks.{suffix}").read_text() for suffix in ("md", "tex"))
    assert "| badnets | 0.3 |" in markdown
    assert "91.0 ± 2.5" in markdown
    assert r"91.0 $\pm$ 2.5" in latex
    for text in (
        markdown,
        latex,
        tables.tabulate(frame(cards), [("sig on gtsrb", "too few rows of the class")]).summary,
    ):
        assert "Skipped, too few rows of the class: sig on gtsrb." in text
    assert "No such results in this grid." in (tmp_path / "inversion.md").read_text()


def test_latex_has_no_bare_underscore_or_percent_sign(cards, tmp_path):
    tables.tabulate(frame(cards)).write(tmp_path)
    body = (tmp_path / "detection.tex").read_text().split("\n", 1)[1]
    bare = [at for at, mark in enumerate(body) if mark in "_%" and body[at - 1] != "\\"]
    assert {body[at - 4 : at + 2] for at in bare} == {"\\rho_t"}
    assert r"spectre\_\allowbreak{}oracle" in body
    assert r"95 \%" in body or "95 %" not in body


def test_every_card_is_a_row_of_its_own_file(cards, tmp_path):
    half = len(cards) // 2
    artifacts.save_cards(tmp_path / "a.json", cards[:half])
    artifacts.save_cards(tmp_path / "b.json", cards[half:])
    made = tables.tabulate(collect([tmp_path / "a.json", tmp_path / "b.json"]))
    made.write(tmp_path)
    read = pd.read_csv(tmp_path / "cards.csv")
    assert len(read) == len(cards)
    assert set(read["state"]) == {"judged"}


def test_the_page_fits_a_terminal_and_marks_what_was_told_the_truth(cards):
    page = tables.tabulate(frame(cards)).summary
    assert max(map(len, page.splitlines())) <= 120
    assert "spectre_oracle*" in page
    assert "scan*" not in page
    assert " 80.0/ 10.0 .930" in page


def test_files_read_back_are_what_was_written(cards, tmp_path):
    cards = changed(cards, {"role": "detector"}, looks_at="latents", seconds=1.5)
    made = tables.tabulate(frame(cards))
    made.write(tmp_path)
    kept = made.cards.drop(columns=["seconds", "cpu_seconds"])
    pd.testing.assert_frame_equal(read(tmp_path / "cards.csv"), kept, check_dtype=False)
    pd.testing.assert_frame_equal(read(tmp_path / "detection.csv"), made.values["detection"], check_dtype=False)
    costs = read(tmp_path / "costs.csv")
    pd.testing.assert_series_equal(costs["cpu_seconds"], made.cards["cpu_seconds"], check_dtype=False)


def test_times_are_in_tables_of_their_own(cards, tmp_path):
    """Two runs make the same bytes, whatever the machine was busy with."""
    for folder, seconds in (("a", 1.5), ("b", 2.5)):
        timed = changed(cards, {}, seconds=seconds, cpu_seconds=2 * seconds, peak_memory_mb=int(100 * seconds))
        tables.tabulate(frame(timed)).write(tmp_path / folder)
    different = {"cost.csv", "cost.md", "cost.tex", "costs.csv", "rendered.json"}
    for file in (tmp_path / "a").iterdir():
        same = file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
        assert same == (file.name not in different), file.name
    cost = read(tmp_path / "a/cost.csv")
    assert set(cost["seconds"]) == {1.5}
    assert set(cost["peak_memory_mb"]) == {150}
