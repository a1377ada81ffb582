"""Changes of code and configuration rerun the jobs that they affect; changes of file times rerun none."""

import json
import os
import shutil
import time

import pytest

from keyhole import artifacts
from keyhole.reporting.runs import read

PER_VICTIM = {"poison", "train", "ask_clean_model", "latents", "separability", "detect", "filter", "score"}
CELL = "results/digits/badnets/rate=0.05/seed=0/convnet"
REPORTING = {"draw", "tabulate", "plot", "report"}


def without_reports(jobs):
    return {rule: count for rule, count in jobs.items() if rule not in REPORTING}


def test_a_finished_grid_has_nothing_to_do(tree):
    assert tree.would_run() == {}


def test_touched_files_rerun_nothing(tree):
    later = time.time() + 100
    for folder in ("src", "workflow_scripts", "rules"):
        for file in (tree.root / folder).rglob("*.*"):
            os.utime(file, (later, later))
    assert tree.would_run() == {}


def test_a_comment_and_a_docstring_rerun_nothing(tree):
    tree.edit("src/keyhole/attacks/badnets.py", "from dataclasses", "# a remark\nfrom dataclasses")
    tree.edit("src/keyhole/detectors/spectral_signatures.py", '"""', '"""A remark. ')
    tree.edit("workflow_scripts/train.py", '"""', '"""A remark. ')
    assert tree.would_run() == {}


def test_the_order_of_attacks_retrains_nothing(tree):
    tree.write(attacks={"blended": {}, "badnets": {}})
    assert without_reports(tree.would_run()) == {}


def test_an_edited_attack_reruns_its_own_cells(tree):
    tree.edit("src/keyhole/attacks/badnets.py", "images = images.clone()", "images = images.clone().contiguous()")
    jobs = without_reports(tree.would_run())
    assert jobs == dict.fromkeys(PER_VICTIM, 1)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("detectors/activation_clustering.py", "n_init=10", "n_init=11"),
        ("detectors/spectral_signatures.py", "assumed_rate: RateGuess = ", "assumed_rate: RateGuess = 1e-3 + "),
    ],
)
def test_an_edited_detector_reruns_its_own_cells(tree, file, old, new):
    tree.edit(f"src/keyhole/{file}", old, new)
    assert without_reports(tree.would_run()) == {"detect": 3, "score": 3}


def test_an_edited_counter_of_passes_reruns_the_defenses_that_are_counted(tree):
    tree.edit("src/keyhole/running/passes.py", "images = len(output)", "images = 1 * len(output)")
    assert without_reports(tree.would_run()) == {"detect": 3, "filter": 3, "score": 3}


def test_what_only_inverters_need_reruns_nothing_without_inverters(tree):
    tree.edit("src/keyhole/running/likeness.py", "PROBES = 250", "PROBES = 251")
    assert tree.would_run() == {}


def test_an_edited_recipe_reruns_what_trains_by_it(tree):
    tree.edit("src/keyhole/learning/recipes.py", "epochs=30", "epochs=31")  # of a recipe that the grid does not use
    assert tree.would_run() == {}
    tree.edit("src/keyhole/learning/recipes.py", "learning_rate=6e-3", "learning_rate=5e-3")
    assert without_reports(tree.would_run()) == dict.fromkeys(PER_VICTIM - {"poison"}, 3)


def test_an_edited_score_reruns_scores_only(tree):
    tree.edit("src/keyhole/scoring/recovery.py", "PATCH = 0.25", "PATCH = 0.26")
    assert without_reports(tree.would_run()) == {"score": 3}


def test_an_edited_model_reruns_its_victims_but_poisons_nothing(tree):
    tree.edit("src/keyhole/models/convnet.py", "5e-4", "6e-4")
    jobs = tree.would_run()
    assert jobs["train"] == 3
    assert "poison" not in jobs
    assert "fetch" not in jobs


def test_an_edited_plot_reruns_no_science(tree):
    (tree.root / "src/keyhole/reporting/victim_pictures.py").open("a").write("\nUNUSED = 1\n")
    jobs = tree.would_run()
    assert jobs
    assert without_reports(jobs) == {}


def test_one_config_entry_reruns_its_branch(tree):
    tree.write(attacks={"badnets": {}, "blended": {"alpha": 0.25}})
    jobs = without_reports(tree.would_run())
    assert jobs == dict.fromkeys(PER_VICTIM, 1)


def test_one_detector_entry_reruns_its_branch(tree):
    tree.write(detectors={"spectral_signatures": {"assumed_rate": 0.02}, "activation_clustering": {}})
    assert without_reports(tree.would_run()) == {"detect": 3, "score": 3}


def test_a_rate_adds_only_its_own_jobs(tree):
    tree.write(poison_rates=[0.05, 0.1])
    assert without_reports(tree.would_run()) == dict.fromkeys(PER_VICTIM, 2)


def test_a_seed_adds_only_its_own_jobs_and_draws_a_holdout(tree):
    tree.write(seeds=[0, 1])
    assert without_reports(tree.would_run()) == {"hold_out": 1, **dict.fromkeys(PER_VICTIM, 3)}


@pytest.mark.parametrize(("source", "other"), [("train", "test"), ("test", "train")])
def test_each_seed_has_its_own_holdout_and_no_copy_of_the_data(fresh, source, other):
    fresh.write(seeds=[0, 1], holdout={"source": source, "size": 100})
    fresh.snakemake("--until", "hold_out")
    folder = fresh.root / "results/data/digits"
    whole = artifacts.load_arrays(folder / f"{source}.safetensors")
    drawn = []
    for seed in (0, 1):
        files = {part: folder / f"seed={seed}/{part}.safetensors" for part in ("holdout", source)}
        parts = {part: artifacts.load_arrays(file) for part, file in files.items()}
        assert len(parts["holdout"]["labels"]) == 100
        pixels = [[image.tobytes() for image in part["images"]] for part in parts.values()]
        assert sorted([*pixels[0], *pixels[1]]) == sorted(image.tobytes() for image in whole["images"])
        assert files[source].stat().st_size < 0.1 * (folder / f"{source}.safetensors").stat().st_size
        drawn.append(set(pixels[0]))
    assert len(drawn[0] & drawn[1]) < 50
    assert not (folder / f"seed=0/{other}.safetensors").exists()  # all seeds share the split that stays whole
    assert fresh.would_run("--until", "hold_out") == {}
    fresh.write(seeds=[0, 1], holdout={"source": source, "size": 101})
    assert fresh.would_run("--until", "hold_out") == {"hold_out": 2}


def test_a_defense_added_trains_no_victim(tree):
    tree.write(
        detectors={"spectral_signatures": {}, "activation_clustering": {}, "scan": {}},
        purifiers={"shrink_pad": {"pixels": 2}},
    )
    expected = {"detect": 3, "purify": 3, "score": 3}
    assert without_reports(tree.would_run()) == expected


def test_a_defense_taken_out_only_scores_again(tree):
    tree.write(filters={})
    assert without_reports(tree.would_run()) == {"score": 3}


def test_detectors_of_one_job_are_judged_anew_only_where_they_changed(tree):
    def facts(victim, detector):
        folder = tree.root / f"results/digits/{victim}/seed=0/convnet/detect/{detector}"
        return artifacts.facts(folder / "suspicion.safetensors")

    places = [("badnets/rate=0.05", name) for name in ("spectral_signatures", "activation_clustering")]
    before = [facts(*place) for place in places]
    tree.edit("src/keyhole/detectors/activation_clustering.py", "n_init=10", "n_init=11")
    tree.snakemake("--until", "detect")
    kept, again = (facts(*place) for place in places)
    assert kept == before[0]
    assert again["made_from"] != before[1]["made_from"]
    assert again["cpu_seconds"] > 0


def test_a_long_detector_has_a_job_of_its_own(tree):
    tree.edit(
        "src/keyhole/detectors/activation_clustering.py", "    level: Level", "    long = True\n\n    level: Level"
    )
    assert without_reports(tree.would_run()) == {"detect": 3, "detect_long": 3, "score": 3}


def test_what_an_attack_crafts_is_shared_by_its_rates_and_its_surrogate_by_attacks(tree):
    crafted = {"label_consistent": {"steps": 2}, "dynamic": {"steps": 2}}
    tree.write(attacks={"badnets": {}, "blended": {}, **crafted}, poison_rates=[0.02, 0.05])
    jobs = tree.would_run()
    assert (jobs["surrogate"], jobs["craft"]) == (1, 2)
    assert jobs["train"] == 2 + 4  # the other rate of two attacks, two rates of two more


def test_the_surrogate_need_not_be_one_of_the_victims_architectures(tree):
    tree.write(attacks={"label_consistent": {"steps": 2}}, surrogate="resnet20")
    assert tree.would_run()["surrogate"] == 1


def test_recipes_are_an_axis_whose_cells_stay_when_it_grows(tree):
    recipe = {"name": "cpu", "epochs": 1}
    axis = {"recipe": None, "attacks": {"badnets": {}}, "detectors": {"spectral_signatures": {}}, "filters": {}}
    tree.write(**axis, recipes={"plain": recipe})
    tree.snakemake("--until", "tabulate")
    tree.write(**axis, recipes={"plain": recipe, "sharp": {**recipe, "sam": 0.5}})
    assert without_reports(tree.would_run()) == dict.fromkeys(PER_VICTIM - {"poison", "filter"}, 2)
    tree.snakemake()
    cards = read(tree.root / "results/tables/cards.csv")
    victims = cards[cards["role"] == "attack"].set_index(["attack", "recipe"])
    assert set(victims.index) == {(attack, label) for attack in ("none", "badnets") for label in ("plain", "sharp")}
    assert set(victims["model"]) == {"convnet"}
    for attack in ("none", "badnets"):
        plain, sharp = (json.loads(victims.loc[(attack, label), "training"]) for label in ("plain", "sharp"))
        assert (plain["sam"], sharp["sam"]) == (0, 0.5)
    weights = [artifacts.load_tensors(tree.root / f"{CELL}+{label}/model.safetensors") for label in ("plain", "sharp")]
    assert any((a != b).any() for a, b in zip(*(each.values() for each in weights), strict=True))
    assert "digits, convnet, sharp" in (tree.root / "results/summary.txt").read_text()


def test_an_attacker_who_trains_leaves_a_set_for_detectors_and_nothing_to_train_on(tree):
    hidden = {"hidden": {"method": "mmd", "base": "badnets"}}
    tree.write(attacks={"badnets": {}, "blended": {}, **hidden}, trainers={"abl": {}}, retrain=True)
    jobs = tree.would_run()
    assert (jobs["materialize"], jobs["train"], jobs["detect"]) == (1, 1, 1)
    assert (jobs["train_defended"], jobs["retrain"]) == (
        3,
        2 * 3,
    )  # the clean victim too; two detectors
    tree.write(attacks={"badnets": {}, "blended": {}, **hidden})
    tree.snakemake("--until", "score")
    folder = tree.root / "results/digits/hidden/rate=0.05/seed=0"
    before, after = (
        artifacts.load_arrays(folder / f"{name}.safetensors") for name in ("poisoned", "convnet/materialized")
    )
    assert (before["index"] == after["index"]).all()
    assert (before["images"] != after["images"]).any()
    cards = artifacts.load_cards(folder / "convnet/cards.json")
    assert all("materialized" in card["flags"] for card in cards if card["role"] == "detector")
    tree.edit("src/keyhole/attacks/badnets.py", "images = images.clone()", "images = images.clone().contiguous()")
    jobs = without_reports(tree.would_run())
    assert (jobs["materialize"], jobs["train"]) == (1, 2)  # its own victim, and the one of the attack over it


def test_detectors_that_keep_the_same_rows_share_one_model(tree):
    same = {label: {"method": "spectral_signatures", "assumed_rate": 0.05} for label in ("first", "second")}
    tree.write(detectors=same, retrain={"attacks": ["badnets"]})
    tree.snakemake("--until", "retrain")
    trained = list((tree.root / "results/shared/digits/retrained/seed=0/convnet").glob("*.safetensors"))
    assert len(trained) == 1
    folder = tree.root / "results/digits/badnets/rate=0.05/seed=0/convnet/detect"
    answers = [artifacts.load_arrays(folder / f"{label}/retrained/predictions.safetensors")["clean"] for label in same]
    assert (answers[0] == answers[1]).all()


@pytest.mark.parametrize("copy", [shutil.copy, shutil.copy2])
def test_results_without_snakemakes_records_are_judged_by_their_own(tree, copy):
    shutil.rmtree(tree.root / ".snakemake")
    shutil.copytree(tree.root / "results", tree.root / "elsewhere", copy_function=copy)
    tree.write(results="elsewhere")
    assert set(tree.would_run()) <= {"report"}, "the page shows the configuration"
    tree.edit("src/keyhole/detectors/activation_clustering.py", "n_init=10", "n_init=11")
    assert without_reports(tree.would_run()) == {"detect": 3, "score": 3}
    tree.edit("src/keyhole/detectors/activation_clustering.py", "n_init=11", "n_init=10")
    tree.write(results="elsewhere", recipe={"name": "cpu", "epochs": 3})
    jobs = without_reports(tree.would_run())
    assert (jobs["train"], jobs["detect"], jobs.get("poison")) == (3, 3, None)
    tree.write(results="elsewhere", datasets={"digits": {"subset": 1000}})
    assert tree.would_run()["fetch"] == 1
    tree.write(results="elsewhere")
    assert set(tree.would_run()) <= {"report"}


def test_fewer_victims_make_new_tables_without_snakemakes_records(tree):
    shutil.rmtree(tree.root / ".snakemake")
    tree.write(attacks={"badnets": {}})
    assert set(tree.would_run()) == {"tabulate", "plot", "report"}
