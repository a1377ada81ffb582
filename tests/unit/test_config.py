"""What a configuration may say, and the one line that answers anything else."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keyhole.attacks.blended import Blended
from keyhole.planning import config
from keyhole.planning.config import Cell, ConfigError

MINIMAL: dict[str, Any] = {
    "datasets": ["cifar10"],
    "models": ["resnet18"],
    "poison_rates": [0.003],
    "attacks": {"badnets": None},
    "holdout": {"source": "test", "size": 2000},
}
FULL: dict[str, Any] = {
    "results": "results",
    "datasets": ["cifar10", "cifar100"],
    "models": ["resnet18", "vgg16_bn"],
    "poison_rates": [0.003, 0.01],
    "seeds": [0, 1],
    "holdout": {"source": "test", "size": 2000},
    "recipe": "cpu",
    "attacks": {
        "badnets": {"size": 3},
        "blended": {"alpha": 0.2},
        "blended_faint": {"method": "blended", "alpha": 0.05},
        "adap_blend": {"rates": [0.003]},
    },
    "detectors": {
        "spectral_signatures": {"assumed_rate": 0.05},
        "spectral_signatures_oracle": {"method": "spectral_signatures", "assumed_rate": "oracle"},
    },
    "retrain": {"poison_rates": [0.01], "seeds": [0], "detectors": ["spectral_signatures"]},
    "skip": [{"attack": "badnets", "dataset": "cifar100", "poison_rate": 0.01, "why": "too slow"}],
}


def changed(**sections: Any) -> dict[str, Any]:
    return {**copy.deepcopy(FULL), **sections}


def message(given: Any, **options: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(given, **options)
    return str(caught.value)


def test_defaults() -> None:
    grid = config.load({key: value for key, value in MINIMAL.items() if key != "holdout"})
    assert grid.cells() == [
        Cell("cifar10", "none", "0", 0, "resnet18"),
        Cell("cifar10", "badnets", "0.003", 0, "resnet18"),
    ]
    assert grid.skipped() == []
    assert grid.results == "results"
    assert grid.recipe_name("resnet18") == "fast"
    assert grid.holdout == config.Holdout("train", 2000)
    assert grid.levels == ("penultimate",)
    assert grid.screened_images == 1000
    assert grid.labels("detectors") == ()


def test_the_example_of_the_design() -> None:
    grid = config.load(FULL)
    rates = {"none": {"0"}, "adap_blend": {"0.003"}}
    for attack in grid.labels("attacks"):
        found = {cell.rate for cell in grid.cells() if cell.attack == attack}
        assert found == rates.get(attack, {"0.003", "0.01"})
    assert len(grid.cells()) + len(grid.skipped()) == 2 * 2 * 2 * (1 + 3 * 2 + 1)
    assert len(set(grid.cells())) == len(grid.cells())
    assert grid.labels("detectors") == ("spectral_signatures", "spectral_signatures_oracle")
    assert grid.entry("detectors", "spectral_signatures_oracle").parameters == {"assumed_rate": "oracle"}


def test_skipped_cells_keep_their_reason() -> None:
    grid = config.load(FULL)
    assert len(grid.skipped()) == 4, "two seeds, two models"
    assert {(cell.attack, cell.dataset, cell.rate) for cell, _ in grid.skipped()} == {("badnets", "cifar100", "0.01")}
    assert {why for _, why in grid.skipped()} == {"too slow"}
    assert not {cell for cell, _ in grid.skipped()} & set(grid.cells())


def test_the_clean_reference_can_be_skipped_by_rate_0() -> None:
    grid = config.load(changed(skip=[{"poison_rate": 0, "why": "done before"}]))
    assert {cell.attack for cell, _ in grid.skipped()} == {"none"}


def test_data_sets_may_have_parameters_and_labels() -> None:
    grid = config.load(changed(datasets={"cifar10": None, "small": {"method": "cifar10", "subset": 500}}, skip=[]))
    assert grid.labels("data") == ("cifar10", "small")
    assert grid.entry("data", "small") == config.Entry("small", "cifar10", {"subset": 500})


def test_retrain_selects_cells_and_detectors() -> None:
    grid = config.load(FULL)
    cell = Cell("cifar10", "badnets", "0.01", 0, "resnet18")
    assert grid.retrains(cell, "spectral_signatures")
    assert not grid.retrains(cell, "spectral_signatures_oracle")
    assert not grid.retrains(Cell("cifar10", "badnets", "0.003", 0, "resnet18"), "spectral_signatures")
    assert not grid.retrains(Cell("cifar10", "badnets", "0.01", 1, "resnet18"), "spectral_signatures")
    assert not grid.retrains(Cell("cifar10", "none", "0", 0, "resnet18"), "spectral_signatures")
    with_clean = config.load(changed(retrain={"poison_rates": [0]}))
    assert with_clean.retrains(Cell("cifar10", "none", "0", 1, "resnet18"), "spectral_signatures")
    for switch in (True, False):
        grid = config.load(changed(retrain=switch))
        assert {grid.retrains(cell, label) for cell in grid.cells() for label in grid.labels("detectors")} == {switch}


def test_recipe_fields_can_be_overridden() -> None:
    recipe = config.load(changed(recipe={"name": "paper", "epochs": 3, "milestones": [0.5]})).recipes[""]
    assert (recipe.method, recipe.parameters) == ("paper", {"epochs": 3, "milestones": [0.5]})


def test_several_recipes_are_an_axis_with_folders_and_names_of_their_own() -> None:
    recipes = {"cpu": None, "long": {"name": "cpu", "epochs": 9}, "sharp": {"name": "fast", "sam": 0.05}}
    grid = config.load({**MINIMAL, "models": ["resnet18", "convnet"], "recipes": recipes})
    assert [(c.model, c.recipe, c.folder) for c in grid.cells() if c.attack == "badnets"] == [
        (model, label, f"{model}+{label}") for model in ("resnet18", "convnet") for label in recipes
    ]
    assert grid.labels("models") == tuple(dict.fromkeys(cell.folder for cell in grid.cells()))
    for folder, (epochs, sam) in {"convnet+cpu": (6, 0), "convnet+long": (9, 0), "resnet18+sharp": (30, 0.05)}.items():
        fields = json.loads(grid.recipe_for("cifar10", folder))
        assert (fields["epochs"], fields["sam"]) == (epochs, sam)
        assert folder.endswith(f"+{grid.recipe_name(folder)}")
    assert grid.modules("models", "convnet+long") == ["keyhole.models.convnet"]
    assert grid.surrogate == "resnet18"
    assert json.loads(grid.recipe_for("cifar10", "resnet18"))["epochs"] == 6, "the attackers' own: by the first recipe"
    assert str(grid.cells()[-1]) == "cifar10, convnet, sharp, badnets at 0.3 %, seed 0"


def test_recipes_may_be_a_list_of_names_and_even_of_one() -> None:
    assert [c.folder for c in config.load({**MINIMAL, "recipes": ["fast"]}).cells()] == ["resnet18+fast"] * 2
    labels = {c.recipe for c in config.load({**MINIMAL, "recipes": ["fast", "paper"]}).cells()}
    assert labels == {"fast", "paper"}


@pytest.mark.parametrize(
    ("recipes", "path", "words"),
    [
        ({"a": "cpu", "b": {"name": "cpu", "sam": 0.1}}, "recipes.b.sam", "wanet"),
        ([], "recipes", "fast"),
        ({}, "recipes", "fast"),
        ({"cpus": {}}, "recipes.cpus", "did you mean cpu?"),
        ({"a": {"name": "fats"}}, "recipes.a.name", "did you mean fast?"),
        ({"cpu": {"epoch": 3}}, "recipes.cpu.epoch", "did you mean epochs?"),
        ({"A b": "cpu"}, "recipes.A b", "lower"),
    ],
)
def test_recipes_that_do_not_exist_are_refused(recipes: Any, path: str, words: str) -> None:
    text = message({**MINIMAL, "attacks": {"wanet": {}}, "recipes": recipes})
    assert text.startswith(f"config.yaml: {path}: ")
    assert words in text


def test_cells_of_a_recipe_can_be_skipped() -> None:
    grid = config.load(changed(recipe="cpu", skip=[]))
    assert "recipe" in message(changed(skip=[{"recipe": "cpu", "why": "slow"}]))
    given = {key: value for key, value in changed(recipes=["cpu", "fast"], skip=[]).items() if key != "recipe"}
    given["skip"] = [{"recipe": "fast", "model": "vgg16_bn", "why": "slow"}]
    assert len(config.load(given).cells()) == 2 * len(grid.cells()) - len(grid.cells()) // 2


def test_holdout_may_come_from_the_training_set() -> None:
    grid = config.load(changed(holdout={"source": "train", "size": 500}))
    assert grid.holdout == config.Holdout("train", 500)


def test_latents_are_read_where_detectors_look() -> None:
    detectors = {"spectral_signatures": {"level": "stage2"}, "activation_clustering": None}
    grid = config.load(changed(detectors=detectors, levels=["stage1"], retrain=True, models=["resnet18"]))
    assert sorted(grid.levels_read()) == ["penultimate", "stage1", "stage2"]


def test_canonical_text_knows_no_order_and_every_parameter() -> None:
    a = config.load(changed(attacks={"badnets": {"size": 3, "margin": 1}}, skip=[])).entry("attacks", "badnets")
    b = config.load(changed(attacks={"badnets": {"margin": 1, "size": 3}}, skip=[])).entry("attacks", "badnets")
    c = config.load(changed(attacks={"badnets": {"margin": 3, "size": 1}}, skip=[])).entry("attacks", "badnets")
    assert a.canonical == b.canonical
    assert a.canonical != c.canonical


def test_pinned_rates_are_no_parameter() -> None:
    pinned = config.load(changed(attacks={"badnets": {"rates": [0.02]}}, skip=[], retrain=False))
    plain = config.load(changed(attacks={"badnets": {}}, skip=[]))
    assert pinned.entry("attacks", "badnets").canonical == plain.entry("attacks", "badnets").canonical


def test_common_rates_are_not_needed_where_all_are_pinned() -> None:
    given = {key: value for key, value in MINIMAL.items() if key != "poison_rates"}
    grid = config.load({**given, "attacks": {"badnets": {"rates": [2e-05]}}})
    assert [cell.rate for cell in grid.cells()] == ["0", "2e-05"]


def test_the_configuration_is_left_as_it_was() -> None:
    given = copy.deepcopy(FULL)
    config.load(given)
    assert given == FULL


SS = "spectral_signatures"
BAD: list[tuple[dict[str, Any], str, str]] = [
    # what is put in the configuration, key path, a choice or a number that would be right
    ({"atacks": {}}, "atacks", "did you mean attacks?"),
    ({"results": 3}, "results", "path"),
    ({"results": "results/{attack}"}, "results", "without braces"),
    ({"data_dir": ["a"]}, "data_dir", "path"),
    ({"datasets": []}, "datasets", "cifar10"),
    ({"datasets": None}, "datasets", "cifar10"),
    ({"datasets": "cifar10"}, "datasets", "mapping"),
    ({"datasets": ["cifar11"]}, "datasets.cifar11", "cifar10"),
    ({"datasets": ["cifar10", "cifar10"]}, "datasets[1]", "once"),
    ({"datasets": ["CIFAR-10"]}, "datasets[0]", "lower-case"),
    ({"datasets": {"small": {"method": "cifar10", "subsets": 5}}}, "datasets.small.subsets", "did you mean subset?"),
    ({"datasets": {"small": {"method": "cifar10", "subset": 60000}}}, "datasets.small", "50000"),
    ({"datasets": {"tables": {"method": "cifar10"}}}, "datasets.tables", "another label"),
    ({"models": "resnet18"}, "models", "convnet"),
    ({"models": ["resnet81"]}, "models[0]", "did you mean resnet18?"),
    ({"models": []}, "models", "convnet"),
    ({"models": {"resnet18": {}}}, "models", "list"),
    ({"poison_rates": 0.01}, "poison_rates", "[0.003, 0.01]"),
    ({"poison_rates": []}, "poison_rates", "[0.003, 0.01]"),
    ({"poison_rates": ["often"]}, "poison_rates[0]", "0.003"),
    ({"poison_rates": [True]}, "poison_rates[0]", "0.003"),
    ({"poison_rates": [1]}, "poison_rates[0]", "< 1"),
    ({"poison_rates": [0.01, 0]}, "poison_rates[1]", "none"),
    ({"poison_rates": [0.01, 0.010]}, "poison_rates[1]", "once"),
    ({"poison_rates": [0.33333333]}, "poison_rates[0]", "0.333333"),
    ({"poison_rates": [float("nan")]}, "poison_rates[0]", "0.003"),
    ({"seeds": 3}, "seeds", "[0, 1, 2]"),
    ({"seeds": [0, -1]}, "seeds[1]", ">= 0"),
    ({"seeds": [0, 0]}, "seeds[1]", "once"),
    ({"seeds": [True]}, "seeds[0]", "0"),
    ({"seeds": [0.0]}, "seeds[0]", "whole number"),
    ({"seeds": []}, "seeds", "[0, 1, 2]"),
    ({"holdout": -1}, "holdout", ">= 0"),
    ({"holdout": "2k"}, "holdout", "whole number"),
    ({"screened_images": 0}, "screened_images", ">= 1"),
    ({"levels": []}, "levels", "[penultimate]"),
    ({"levels": "penultimate"}, "levels", "expected a list"),
    ({"holdout": {"source": "train"}}, "holdout.size", "2000"),
    ({"holdout": {"source": "tset", "size": 5}}, "holdout.source", "did you mean test?"),
    ({"holdout": {"size": 5, "form": 1}}, "holdout.form", "source"),
    ({"holdout": {"source": "train", "size": 50000}}, "holdout", "50000 training rows of cifar10"),
    ({"holdout": 0, "detectors": {"scan": None}}, "holdout", "detectors.scan"),
    ({"recipe": "quick"}, "recipe", "fast"),
    ({"recipe": None}, "recipe", "fast"),
    ({"recipes": ["cpu"]}, "recipe", "one of recipe and recipes"),
    ({"recipe": {"epochs": 5}}, "recipe.name", "fast"),
    ({"recipe": {"name": "fats"}}, "recipe.name", "did you mean fast?"),
    ({"recipe": {"name": "cpu", "epoch": 5}}, "recipe.epoch", "did you mean epochs?"),
    ({"recipe": {"name": "cpu", "epochs": 0}}, "recipe.epochs", ">= 1"),
    ({"recipe": {"name": "cpu", "learning_rate": "1e-3"}}, "recipe.learning_rate", "1.0e-3"),
    ({"attacks": ["badnets"]}, "attacks", "badnets"),
    ({"attacks": {"badnet": None}}, "attacks.badnet", "did you mean badnets?"),
    ({"attacks": {"mine": {"method": "badnet"}}}, "attacks.mine", "did you mean badnets?"),
    ({"attacks": {"mine": {"method": 3}}}, "attacks.mine.method", "badnets"),
    ({"attacks": {"BadNets": None}}, "attacks.BadNets", "lower-case"),
    ({"attacks": {3: None}}, "attacks.3", "lower-case"),
    ({"attacks": {"badnets": [3]}}, "attacks.badnets", "{method: ...}"),
    ({"attacks": {"blended": {"alhpa": 0.1}}}, "attacks.blended.alhpa", "did you mean alpha?"),
    ({"attacks": {"blended": {"alpha": 1.5}}}, "attacks.blended.alpha", "from 0 to 1"),
    ({"attacks": {"blended": {"alpha": "half"}}}, "attacks.blended.alpha", "from 0 to 1"),
    ({"attacks": {"badnets": {"size": 0}}}, "attacks.badnets.size", ">= 1"),
    ({"attacks": {"badnets": {"size": True}}}, "attacks.badnets.size", ">= 1"),
    ({"attacks": {"badnets": {"rates": 0.1}}}, "attacks.badnets.rates", "[0.003, 0.01]"),
    ({"attacks": {"badnets": {"rates": [2]}}}, "attacks.badnets.rates[0]", "0.003"),
    ({"attacks": {"none": {"rates": [0.1]}}}, "attacks.none.rates", "rate 0"),
    ({"attacks": {"none": {"method": "badnets"}}}, "attacks.none", "belong together"),
    ({"attacks": {"clean": {"method": "none"}}}, "attacks.clean", "none"),
    ({"attacks": {"badnets": {"target_class": 10}}}, "attacks.badnets.target_class", "0 to 9"),
    ({"attacks": {"badnets": {"target_class": -1}}}, "attacks.badnets.target_class", ">= 0"),
    ({"attacks": {"badnets": {"rates": [0.95]}}}, "attacks.badnets", "45000"),
    ({"attacks": {"mmd": {"target_class": 2}}}, "attacks.mmd.target_class", "base: {method: ..., target_class: ...}"),
    ({"attacks": {"adap_blend": {"rates": [0.5]}}}, "attacks.adap_blend", "25000 payload and 25000 cover"),
    ({"detectors": [SS]}, "detectors", "mapping"),
    ({"detectors": {SS: {"assumed_rate": "orakel"}}}, f"detectors.{SS}.assumed_rate", "oracle"),
    ({"detectors": {SS: {"assumed_rate": 1}}}, f"detectors.{SS}.assumed_rate", "< 1"),
    ({"detectors": {SS: {"rates": [0.1]}}}, f"detectors.{SS}.rates", "assumed_rate"),
    ({"detectors": {"badnets": None}}, "detectors.badnets", SS),
    ({"retrain": "yes"}, "retrain", "true"),
    ({"retrain": {"seed": [0]}}, "retrain.seed", "did you mean seeds?"),
    ({"retrain": {"seeds": [5]}}, "retrain.seeds[0]", "choose from 0, 1"),
    ({"retrain": {"seeds": []}}, "retrain.seeds", "[0, 1]"),
    ({"retrain": {"poison_rates": [0.05]}}, "retrain.poison_rates[0]", "0.003"),
    ({"retrain": {"poison_rates": [False]}}, "retrain.poison_rates[0]", "0.003"),
    ({"retrain": {"detectors": ["scan"]}}, "retrain.detectors[0]", SS),
    ({"skip": {"attack": "badnets"}}, "skip", "list"),
    ({"skip": [{"attack": "badnets"}]}, "skip[0].why", "reason"),
    ({"skip": [{"why": "all"}]}, "skip[0]", "attack"),
    ({"skip": [{"attak": "badnets", "why": "x"}]}, "skip[0].attak", "did you mean attack?"),
    ({"skip": [{"attack": "badnet", "why": "x"}]}, "skip[0].attack", "did you mean badnets?"),
    ({"skip": [{"seed": True, "why": "x"}]}, "skip[0].seed", "choose from 0, 1"),
    ({"skip": [{"poison_rate": "often", "why": "x"}]}, "skip[0].poison_rate", "0.003"),
    ({"skip": [{"attack": "adap_blend", "poison_rate": 0.01, "why": "x"}]}, "skip[0]", "no cell"),
    ({"skip": [{"dataset": "cifar10", "why": "x"}, {"dataset": "cifar100", "why": "x"}]}, "skip", "at least one"),
]
PLAIN = {key: value for key, value in FULL.items() if key not in ("retrain", "skip")}


@pytest.mark.parametrize(("given", "path", "choice"), BAD, ids=lambda value: str(value)[:60])
def test_a_bad_configuration_is_answered_in_one_line(given: dict[str, Any], path: str, choice: str) -> None:
    text = message({**copy.deepcopy(PLAIN), **given})
    assert "\n" not in text
    assert text.startswith(f"config.yaml: {path}: ")
    assert choice in text


def test_keys_that_begin_with_x_are_the_users_own() -> None:
    assert config.load({**MINIMAL, "x-common": {"size": 3}}) == config.load(MINIMAL)


def test_numbers_from_the_command_line_come_as_text() -> None:
    """Snakemake reads `--config seeds=[0,1]` as ["0", "1"]."""
    badnets = {"badnets": {"size": "4", "rates": ["0.01"]}}
    assert config.load({**PLAIN, "seeds": ["0", "1"], "attacks": badnets, "retrain": "false"}) == config.load(
        {**PLAIN, "seeds": [0, 1], "attacks": {"badnets": {"size": 4, "rates": [0.01]}}, "retrain": False}
    )


@pytest.mark.parametrize("key", ["datasets", "models"])
def test_missing_sections_are_named(key: str) -> None:
    given = {name: value for name, value in FULL.items() if name != key}
    assert re.match(rf"config\.yaml: {key}: missing; choose from \w+", message(given))


@pytest.mark.parametrize("given", [None, [], "datasets"])
def test_what_is_no_mapping_is_refused(given: Any) -> None:
    assert message(given).startswith("config.yaml: configuration: expected keys such as datasets")


def test_the_message_names_the_file_it_is_about() -> None:
    assert message(changed(seeds=[]), file="grids/paper.yaml").startswith("grids/paper.yaml: seeds: ")


def test_a_method_name_with_a_line_break_still_gives_one_line() -> None:
    assert "\n" not in message(changed(**{"a\nb": 1}))


@pytest.fixture
def clean_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `blended` a clean-label attack."""
    monkeypatch.setattr(Blended, "controls", "clean-label")


@pytest.mark.usefixtures("clean_label")
def test_clean_label_rate_above_the_share_of_the_class_is_refused_with_the_numbers() -> None:
    text = message({**MINIMAL, "attacks": {"blended": {"rates": [0.1, 0.11], "target_class": 2}}})
    assert text.startswith("config.yaml: attacks.blended: rate 0.11 on cifar10 asks for 5500 payload rows")
    assert "target class 2 holds 5000" in text
    assert "up to about 0.1 " in text


def test_an_attack_without_a_rate_gets_its_papers(tmp_path: Path) -> None:
    grid = config.load(
        {
            **{k: v for k, v in MINIMAL.items() if k != "poison_rates"},
            "attacks": {"badnets": {}, "blended": {"rates": [0.02]}},
        }
    )
    assert [cell.rate for cell in grid.cells()] == ["0", "0.003", "0.02"]


def test_an_attack_differs_on_a_data_set() -> None:
    on = {"gtsrb": {"target_class": 2, "rates": [0.01, 0.02]}}
    given = {
        **MINIMAL,
        "datasets": ["cifar10", "gtsrb"],
        "attacks": {"badnets": {"rates": [0.003], "size": 4, "by_dataset": on}},
    }
    grid = config.load(given)
    assert [(c.dataset, c.rate) for c in grid.cells() if c.attack == "badnets"] == [
        ("cifar10", "0.003"), ("gtsrb", "0.01"), ("gtsrb", "0.02"),
    ]  # fmt: skip
    assert grid.entry("attacks", "badnets", "gtsrb").parameters == {"size": 4, "target_class": 2}
    assert grid.entry("attacks", "badnets", "cifar10").parameters == {"size": 4}


@pytest.mark.parametrize(
    ("on", "where", "words"),
    [
        ({"gtsrp": {}}, "attacks.badnets.by_dataset.gtsrp", "unknown data set"),
        ({"cifar10": {"sise": 3}}, "attacks.badnets.by_dataset.cifar10.sise", "did you mean size"),
        ({"cifar10": {"rates": [2]}}, "attacks.badnets.by_dataset.cifar10.rates[0]", "> 0 and < 1"),
        ([], "attacks.badnets.by_dataset", "data sets with parameters"),
    ],
)
def test_a_wrong_difference_on_a_data_set_is_refused(on: Any, where: str, words: str) -> None:
    text = message({**MINIMAL, "attacks": {"badnets": {"by_dataset": on}}})
    assert where in text
    assert words in text


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"rates": [0.12]}, "asks for 6000 payload and 6000 cover rows, but the source classes [1] hold 5000"),
        ({"rates": [0.09], "cover_classes": [5]}, None),
        ({"rates": [0.09], "cover_ratio": 2.0, "cover_classes": [5]}, "but the cover classes [5] hold 5000"),
        ({"source_classes": [10]}, "tact.source_classes: expected a class of cifar10, 0 to 9, got 10"),
        ({"label_map": "all_to_all"}, "tact.label_map: expected all_to_one, since tact is source-specific"),
    ],
)
def test_a_source_specific_attack_is_held_to_its_classes(parameters: dict[str, Any], words: str | None) -> None:
    given = {**MINIMAL, "holdout": 0, "detectors": {}, "attacks": {"tact": parameters}}
    if words is None:
        config.load(given)
    else:
        assert words in message(given)


def test_all_to_all_may_take_rows_of_every_class() -> None:
    attack = {"rates": [0.95], "label_map": "all_to_all"}
    assert config.load({**MINIMAL, "holdout": 0, "detectors": {}, "attacks": {"badnets": attack}})
    assert "the classes other than 0 hold 45000" in message(
        {**MINIMAL, "holdout": 0, "detectors": {}, "attacks": {"badnets": {"rates": [0.95]}}}
    )


@pytest.mark.usefixtures("clean_label")
def test_a_skip_saves_an_impossible_cell() -> None:
    given = {**MINIMAL, "datasets": ["cifar10", "cifar100"], "attacks": {"blended": {"rates": [0.05]}}}
    assert "rate 0.05 on cifar100 asks for 2500" in message(given)
    skip = {"attack": "blended", "dataset": "cifar100", "why": "the target class holds 1 % of the rows"}
    assert len(config.load({**given, "skip": [skip]}).cells()) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("clean_label")
def test_a_holdout_from_the_training_set_takes_rows_of_every_class() -> None:
    given = {**MINIMAL, "holdout": {"source": "train", "size": 10000}, "attacks": {"blended": {"rates": [0.11]}}}
    assert "asks for 4400 payload rows, but target class 0 holds 4000" in message(given)


def test_what_methods_say_is_remembered_so_that_the_next_start_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from keyhole.planning import config;"
        f"config.load({FULL!r}, memory=Path({str(tmp_path / 'methods.json')!r}));"
        "print(*sorted({'torch', 'pandas', 'sklearn', 'scipy', 'jaxtyping'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2))
    assert "torch" in first.stdout
    assert second.stdout.strip() == ""


def test_a_file_that_cannot_be_written_costs_nothing_but_time() -> None:
    assert config.load(FULL, memory=Path("/proc/nowhere/methods.json")) == config.load(FULL)


@pytest.mark.parametrize(
    ("given", "path", "words"),
    [
        ({"recipe": {"name": "cpu", "sam": 0.05}, "attacks": {"wanet": {}}}, "recipe.sam", "since wanet control"),
        ({"attacks": {"tact": {"cover_classes": [1]}}}, "attacks.tact.cover_classes", "none of source_classes"),
        ({"attacks": {"adap_patch": {"opacities": [0.5]}}}, "attacks.adap_patch.opacities", "1 for 4"),
        ({"attacks": {"dynamic": {"share": 0.9}}}, "attacks.dynamic.share", "<= 0.333"),
        ({"attacks": {"bpp": {"colors": 1}}}, "attacks.bpp.colors", "from 2 to 255"),
        ({"attacks": {"badnets": {"size": 40}}}, "attacks.badnets.size", "at most 16 pixels with margin 0"),
        ({"attacks": {"badnets": {"margin": 16}}}, "attacks.badnets.margin", "fewer than 16 pixels"),
        (
            {"attacks": {"badnets": {"pattern": "checkers"}}},
            "attacks.badnets.pattern: expected checker, white, dots, or a picture file, got 'checkers' (no such file)",
            "did you mean checker?",
        ),
        ({"attacks": {"blended": {"pattern": "shape"}}}, "attacks.blended.pattern", "did you mean shapes?"),
        ({"attacks": {"adap_blend": {"pattern": "."}}}, "attacks.adap_blend.pattern", "noise, shapes, or a picture"),
        ({"attacks": {"trojan_patch": {"trigger": "square"}}}, "attacks.trojan_patch.trigger", "trojan_square"),
        ({"attacks": {"tact": {"folder": "none"}}}, "attacks.tact.folder", "the picture trojan_square_32.png"),
        (
            {"attacks": {"adap_patch": {"test_triggers": ["a", "b"]}}},
            "attacks.adap_patch.test_triggers",
            "phoenix_corner",
        ),
        ({"attacks": {"adap_patch": {"triggers": ["a"] * 4}}}, "attacks.adap_patch.triggers", "phoenix_corner"),
        (
            {"attacks": {"mmd": {"base": {"method": "badnets", "size": 17}}}},
            "attacks.mmd.base.size",
            "at most 16 pixels",
        ),
        ({"attacks": {"label_consistent": {"size": 9}}}, "attacks.label_consistent.size", "at most 8 pixels"),
        ({"attacks": {"mmd": {"levels": ["nope"]}}}, "attacks.mmd.levels", "group1"),
        ({"detectors": {"confusion_training": {"ratios": [0.5]}}}, "detectors.confusion_training.pretrain_epochs", "2"),
        ({"detectors": {"scan": {"level": "nope"}}}, "detectors.scan.level", "group1"),
        ({"detectors": {"beatrix": {"map_level": "nope"}}}, "detectors.beatrix.map_level", "group1"),
        ({"detectors": {"strip": {"overlays": 200}}}, "detectors.strip.overlays", "fewer than its 200"),
        ({"detectors": {"strip": {"variant": "released"}}}, "detectors.strip.variant", "authors, toolbox, qi, half"),
        ({"filters": {"strip": {"variant": "paper"}}}, "filters.strip.variant", "authors, toolbox, qi, half"),
        ({"filters": {"strip": {"overlays": 150}}}, "filters.strip.overlays", "fewer than its 150"),
        ({"filters": {"strip": {"overlays": 60, "holdout": 50}}}, "filters.strip.overlays", "fewer than its 50"),
        ({"purifiers": {"jpeg": {"quality": 400}}}, "purifiers.jpeg.quality", "from 1 to 100"),
        ({"purifiers": {"shrink_pad": {"pixels": 16}}}, "purifiers.shrink_pad.pixels", "fewer than the 16"),
        ({"levels": ["nope"]}, "levels[0]", "penultimate"),
        ({"poison_rates": [0.0001]}, "attacks.badnets", "0 payload rows; choose a rate from about 0.0008"),
    ],
)
def test_a_cell_that_cannot_be_run_is_refused_before_any_job(given: dict[str, Any], path: str, words: str) -> None:
    digits = {"datasets": ["digits"], "models": ["convnet"], "poison_rates": [0.05], "holdout": 200, "recipe": "cpu"}
    text = message({**digits, "attacks": {"badnets": {}}, **given})
    assert text.startswith(f"config.yaml: {path}")
    assert words in text
    assert "\n" not in text


def test_a_cover_ratio_that_takes_more_than_arithmetic_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(self: Blended) -> float:
        ratio = 400.0
        return ratio if self.alpha else 0.0

    monkeypatch.setattr(Blended, "cover_ratio", property(greedy))
    given = {**MINIMAL, "attacks": {"blended": {}}}
    assert "asks for 150 payload and 60000 cover rows, but the classes other than 0 hold 45000" in message(given)


def test_images_of_a_wrong_type_are_refused_from_their_header(tmp_path: Path) -> None:
    import numpy as np

    labels = np.arange(40) % 4
    arrays = {"x_train": np.zeros((40, 8, 8), np.float32), "y_train": labels, "x_test": np.zeros((40, 8, 8), np.uint8)}
    np.savez(tmp_path / "mine.npz", **arrays, y_test=labels)
    given = {**MINIMAL, "datasets": {"mine": {"method": "npz", "path": str(tmp_path / "mine.npz")}}}
    text = message(given)
    assert text.startswith("config.yaml: datasets.mine: ")
    assert "expected x_train as uint8 (0..255), got float32; convert images of 0..1 by (255 * x)" in text


FINE_PRUNING = {"method": "fine_pruning"}

# Defenses that meet smaller hold-outs, or follow one another


def test_a_defense_may_meet_hold_outs_of_several_sizes() -> None:
    grid = config.load(changed(repairers={"fine_pruning": {"holdout": [100, 500], "epochs": 0}, "whole": FINE_PRUNING}))
    assert grid.labels("repairers") == ("fine_pruning_100", "fine_pruning_500", "whole")
    assert grid.entry("repairers", "fine_pruning_100", "digits").holdout == 100
    assert json.loads(grid.entry("repairers", "fine_pruning_500").canonical) == {
        "holdout": 500,
        "method": "fine_pruning",
        "parameters": {"epochs": 0},
    }
    assert "holdout" not in json.loads(grid.entry("repairers", "whole").canonical)


def test_a_defense_may_meet_one_smaller_hold_out() -> None:
    grid = config.load(changed(repairers={"fine_pruning": {"holdout": 100}}))
    assert grid.entry("repairers", "fine_pruning").holdout == 100


@pytest.mark.parametrize(
    ("section", "where", "hint"),
    [
        ({"repairers": {"fine_pruning": {"holdout": 2001}}}, "repairers.fine_pruning.holdout", "at most the 2000"),
        ({"repairers": {"fine_pruning": {"holdout": 0}}}, "repairers.fine_pruning.holdout", ">= 1"),
        ({"repairers": {"fine_pruning": {"holdout": [5, 5]}}}, "repairers.fine_pruning.holdout[1]", "twice"),
        (
            {"detectors": {"spectral_signatures": {"holdout": 5}}},
            "detectors.spectral_signatures.holdout",
            "take the key",
        ),
        (
            {"repairers": {"a": {**FINE_PRUNING, "holdout": [1]}, "a_1": FINE_PRUNING}},
            "repairers.a_1",
            "two entries",
        ),
    ],
)
def test_hold_outs_that_make_no_sense_are_refused(section: dict, where: str, hint: str) -> None:
    with pytest.raises(config.ConfigError, match=re.escape(where)) as error:
        config.load(changed(**section))
    assert hint in str(error.value)


def test_what_is_known_of_an_attack_over_another_comes_from_both() -> None:
    over = {"method": "mmd", "base": {"method": "bypass", "base": {"method": "dynamic", "target_class": 2}}}
    grid = config.load({**MINIMAL, "attacks": {"hidden": over, "lsba": None, "badnets": None}})
    assert grid.attack_methods["hidden"] == ["mmd", "bypass", "dynamic"]
    assert grid.crafted_from == {"none": "nothing", "hidden": "surrogate", "lsba": "surrogate", "badnets": "nothing"}
    assert grid.trained_by_attacker == {"hidden"}
    cell = Cell("cifar10", "hidden", "0.003", 0, "resnet18")
    assert not grid.retrains(cell, "spectral_signatures")


def test_a_base_of_one_data_set_counts_too() -> None:
    given = {"method": "mmd", "by_dataset": {"cifar100": {"base": "dynamic"}}}
    grid = config.load({**MINIMAL, "datasets": ["cifar10", "cifar100"], "attacks": {"hidden": given}})
    assert grid.attack_methods["hidden"] == ["mmd", "blended", "dynamic"]
    assert grid.crafted_from["hidden"] == "surrogate"


@pytest.mark.parametrize(
    ("base", "complaint"),
    [
        ("label_consistent", "attacks.mmd.base: expected an attack whose rows can be drawn anew, got label_consistent"),
        ({"method": "belt", "base": "sig"}, "attacks.mmd.base.base: expected an attack with dirty labels"),
        ({"method": "tact", "source_classes": [10]}, "source_classes: expected a class of cifar10, 0 to 9, got 10"),
        ({"method": "sig"}, "clean-label|target class 0 holds 5000"),
        ({"method": "badnets", "target_class": 10}, "attacks.mmd.base.target_class: expected a class of cifar10"),
        ("none", "attacks.mmd.base: expected an attack, got none"),
        ({"alpha": 0.1}, "attacks.mmd.base: expected an attack such as blended"),
    ],
)
def test_impossible_bases_are_refused_before_any_job(base: Any, complaint: str) -> None:
    given = {**MINIMAL, "poison_rates": [0.2], "attacks": {"mmd": {"base": base}}}
    with pytest.raises(ConfigError, match=complaint):
        config.load(given)
