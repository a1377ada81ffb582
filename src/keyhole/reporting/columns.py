"""The columns of cards and tables, one record each. Tables, headings, digits and the legend are made from them.

Columns have the order of their records. To add a metric, write a function that returns it, and add a record here.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from keyhole.reporting._column import Column

__all__ = ["COLUMNS", "TABLES", "columns_of_section", "columns_of_table", "find"]

TABLES = ("attacks", "separability", "detection", "inversion", "model_detection", "repair", "test_time", "cost")
# sections of rendered tables have the names of the tables, but `test_time` has two: filters and purifiers
_EVERY, _EVERY_SECTION = " ".join(TABLES), " ".join((*(t for t in TABLES if t != "test_time"), "filters", "purifiers"))
_DEFENSES = "detection inversion repair filters purifiers cost"
_MODEL, _MODEL_SHOWN = "attacks repair test_time", "attacks repair purifiers"
_DEFENDED, _DEFENDED_SHOWN = "repair test_time", "repair purifiers"
_DECIDED, _DECIDED_SHOWN = "detection test_time", "detection filters"
_COST, _COST_SHOWN = "inversion model_detection repair test_time", "inversion model_detection"


def _mean(name: str, unit: Any, meaning: str, tables: str, shown: str = "", heading: str = "") -> Column:
    return Column(name, unit, meaning, tables, shown, heading, "mean")


def _row(name: str, unit: Any, meaning: str, shown: str = "", heading: str = "", tables: str = _EVERY) -> Column:
    return Column(name, unit, meaning, tables, shown, heading, "row")


def _card(name: str, unit: Any, meaning: str) -> Column:
    return Column(name, unit, meaning, aggregate="row")


def _compared(name: str, meaning: str, shown: str = "", after: str = "", marks: str = "") -> list[Column]:
    """Make the records of a metric of two groups of latents, of its null and of its ceiling.

    Args:
        marks: the sections that show the null and the ceiling.
    """
    metric = Column(name, "ratio", meaning, "separability", shown, after=after)
    null = replace(
        metric, name=f"{name}_null", meaning="the metric between two groups of clean rows", legend="<metric>_null"
    )
    ceiling = replace(
        metric,
        name=f"{name}_ceiling",
        meaning="the metric between payload and clean rows of another class",
        legend="<metric>_ceiling",
    )
    return [metric, *(replace(c, shown=marks, after="", heading=c.name.replace("_", " ")) for c in (null, ceiling))]


def _at(percent: str, tables: str, shown: str = "") -> list[Column]:
    """Make the records of TPR and FPR at a threshold that is set by false positives.

    Args:
        shown: the sections that show the TPR. Filters also show the FPR, since theirs is not the one asked for.
    """
    meaning = (
        "in `detection`, the TPR at the lowest threshold whose FPR is at most p percent, and that FPR; in `test_time`, "
        "both as measured at the threshold that p percent of hold-out scores exceed"
    )
    return [
        Column(f"{rate}_at_{percent}%", "share", meaning, tables, where, legend=f"{rate}_at_<p>%")
        for rate, where in (("TPR", shown), ("FPR", "filters" if "filters" in shown else ""))
    ]


def _successful(name: str, unit: Any, shown: str = "", heading: str = "") -> Column:
    meaning = "the metric when only the triggered inputs that fool the victim count"
    return Column(f"{name}_successful", unit, meaning, "test_time", shown, heading, legend="<metric>_successful")


def _retrained(name: str, unit: Any, shown: str = "", heading: str = "") -> Column:
    meaning = "the metric of models that are trained again on the rows that the detector keeps"
    return Column(
        f"{name}_retrained", unit, meaning, "detection", shown, heading, "retrained", legend="<metric>_retrained"
    )


# fmt: off
COLUMNS: tuple[Column, ...] = (
    # the setting
    _row("dataset", "words", "the data set, by its label in the configuration"),
    _row("model", "words", "the architecture of the victim"),
    _row("recipe", "words", "the recipe by which it was trained, by its label"),
    _row("attack", "words",
        "the attack, by its label; `none` is the clean reference, `all attacks` all of them together",
        _EVERY_SECTION),
    _row("poison_rate", "rate", "payload rows / all training rows, as asked for", _EVERY_SECTION, "rate"),
    _card("seed", "count", "the seed of the poisoned rows, the initial weights and the batch order"),
    _row("role", "words", "attack, separability, detector, inverter, repairer, trainer, filter, purifier; `none` is "
        "the victim without a defense, `retraining` a model trained on the rows that a detector keeps"),
    _row("defense", "words", "the defense, by its label; `no_defense`, `random_removal`, `perfect_removal` are "
        "controls", f"{_DEFENSES} model_detection"),
    _row("told", "words", "what the defense is given beyond the training set and the model: `holdout`, `poison_rate`, "
        "`target_class`, `payload`, `trigger_family`, `augmentations`, joined by `+`", f"{_DEFENSES} model_detection"),
    _row("level", "words", "the point of the network where latents are read", "separability", "", "separability"),
    _row("transform", "words", "the space of the latents: `raw`, `standardized` (each feature), `whitened` "
        "(distances are Mahalanobis distances of the class's clean rows)", "separability", "", "separability"),
    _row("controls", "words", "what the attacker controls: `labels`, `clean-label`, `dirty-label`, `training`",
        "attacks"),
    _row("target_share", "share", "ρ_t, the share of payload among the rows with the target label",
        f"attacks {_DEFENSES}",
        "ρ_t"),
    # runs
    _row("seeds", "count", "runs of this setting = `judged` + `excluded` + `failed`"),
    _row("judged", "count", "runs that count in the means and intervals"),
    _row("excluded", "count",
        "runs that a flag keeps out of the means; in `cards.csv` the flags that keep this run out"),
    _row("failed", "count", "runs whose method raised an error"),
    _row("<metric>_interval", "number", "half width of the 95 % Student t interval of the mean over seeds; blank "
        "for one seed"),
    _row("flags", "words", "flags of the runs and their victims, with the number of runs that raise them: "
        "`attack_failed(1/3)`; in `cards.csv` the flags of this row"),
    _row("reason", "words", "why runs failed, with the number of runs; in `cards.csv` the error of this run"),
    # what was poisoned
    _mean("payload", "count", "rows with the trigger and the attacker's label", "attacks"),
    _mean("cover", "count", "rows with the trigger and their own label", "attacks"),
    _mean("own_class_payload", "count", "payload rows that had the target label before", "attacks"),
    _mean("realised_poison_rate", "share", "payload rows / all training rows", "attacks"),
    _mean("cover_rate", "share", "cover rows / all training rows", "attacks"),
    # decisions and rankings
    _mean("classes_capped", "share", "classes of which the detector would flag more than half, which is its cap; above "
        "0 raises the flag `budget_capped`", "detection"),
    _mean("size_margin", "share", "`activation_clustering`: least distance of a class's smaller cluster from the size "
        "threshold, as a share of the class; below about 0.01 another start of k-means may flag or spare that class",
        "detection"),
    _mean("prevalence", "share", "payload rows / all rows", "detection"),
    _mean("removed", "number", "rows flagged", "detection"),
    _mean("screened_clean", "count", "clean inputs that the filter judged", "test_time"),
    _mean("screened_triggered", "count", "triggered inputs that the filter judged", "test_time"),
    Column("TPR", "share", "payload rows (triggered inputs) flagged: elimination rate", _DECIDED, _DECIDED_SHOWN),
    Column("FPR", "share", "other rows (inputs) flagged: sacrifice rate", _DECIDED, _DECIDED_SHOWN),
    Column("precision", "share",
        "share of payload among the flagged rows; in `test_time` for as many triggered as clean inputs", _DECIDED),
    Column("F1", "share", "F1 of the flagged rows; in `test_time` for as many triggered as clean inputs", _DECIDED,
        _DECIDED_SHOWN),
    Column("F1_balanced", "share", "F1 of the flagged rows with the target label, if payload were half of these rows; "
        "2/3 = all flagged", "detection", "detection", "F1 balanced"),
    Column("cover_flagged", "share", "cover rows flagged (they count as negatives)", "detection", "detection",
        "cover flagged", after="AUROC_target"),
    Column("AUROC", "ratio", "area under the ROC curve of the scores", _DECIDED, _DECIDED_SHOWN),
    Column("AUPRC", "ratio", "average precision of the scores", "detection"),
    Column("AUROC_target", "ratio", "AUROC among rows with the target label", "detection", "detection",
        "AUROC in target"),
    Column("AUPRC_target", "ratio", "AUPRC among rows with the target label", "detection"),
    *_at("0.1", "detection"),
    *_at("1", _DECIDED, _DECIDED_SHOWN),
    *_at("5", _DECIDED, _DECIDED_SHOWN),
    _successful("TPR", "share", "filters", "TPR of successful"),
    _successful("precision", "share"),
    _successful("F1", "share"),
    _successful("AUROC", "ratio"),
    _successful("TPR_at_1%", "share"),
    _successful("TPR_at_5%", "share"),
    # inversion
    Column("found", "yes or no", "the target class is flagged; with several target classes, the share that is flagged",
        "inversion", "inversion"),
    Column("top1", "yes or no", "the target class has the highest anomaly (a tie shares the credit)", "inversion",
        "inversion"),
    Column("any_flagged", "yes or no", "some class is flagged", "inversion", "inversion", "any flagged"),
    Column("false_alarms", "number", "flagged classes that are not a target class", "inversion", "inversion",
        "false alarms"),
    Column("anomaly_max", "number", "the highest anomaly, on the method's own scale", "inversion"),
    Column("REASR", "share", "ASR of the trigger recovered for the target class, on test images of other classes",
        "inversion", "inversion"),
    Column("mask_IoU", "share", "intersection over union of a patch and the mask recovered for the target class, cut "
        "at one half", "inversion", "inversion", "mask IoU"),
    Column("l1_ratio", "ratio", "ℓ1 norm of the recovered mask over that of the patch", "inversion"),
    Column("feature_distance", "ratio", "mean squared distance between penultimate features with the recovered and "
        "with the true trigger, over that between the true trigger and none: 0 = alike, 1 = as far as no trigger",
        "inversion", "inversion", "feature distance"),
    Column("shift_cosine", "ratio", "cosine between the mean shifts of features that the two triggers cause",
        "inversion", "inversion", "shift cosine"),
    Column("detected", "share", "poisoned victims with any class flagged", "model_detection", "model_detection",
        "poisoned detected"),
    Column("target_named", "share", "poisoned victims whose target class has the highest anomaly, flagged or not",
        "model_detection", "model_detection", "target named"),
    Column("false_alarms_clean", "share", "clean victims with any class flagged", "model_detection", "model_detection",
        "clean flagged"),
    Column("<share>_low", "share", "lower end of Wilson's 95 % interval over victims", "model_detection"),
    Column("<share>_high", "share", "upper end of Wilson's 95 % interval over victims", "model_detection"),
    Column("model_AUROC", "ratio", "AUROC of `anomaly_max` between poisoned and clean victims", "model_detection",
        "model_detection", "model AUROC"),
    # models
    Column("CA", "share", "clean accuracy on the whole test set", _MODEL, _MODEL_SHOWN),
    Column("CA_target", "share", "CA of the target class", _MODEL, _DEFENDED_SHOWN, "CA of target"),
    Column("CA_worst", "share", "CA of the worst class", _MODEL),
    Column("ASR", "share", "attack success rate: share of triggered test rows that get the attacker's label, among "
        "rows whose label the trigger would change", _MODEL, _MODEL_SHOWN),
    Column("ASR_cc", "share", "ASR among rows that the model classifies correctly without the trigger", _MODEL),
    Column("RA", "share", "accuracy of triggered rows on their true class", _MODEL, _MODEL_SHOWN),
    Column("leakage", "share", "share of triggered rows of neither a source nor a target class that get a target "
        "label (source-specific attacks)", _MODEL, "attacks", only_where_measured=True),
    Column("ASR_natural", "share", "ASR without a backdoor: of the clean model of the same data set, model and seed, "
        "or of the model trained again after `perfect_removal`, where there is one; the larger of the two", "attacks",
        "attacks", "natural ASR", after="ASR"),
    Column("CA_reference", "share", "CA of the clean model of the same data set, model and seed", "attacks", "attacks",
        "clean CA", after="CA"),
    Column("silhouette_<level>", "ratio", "the silhouette of raw latents at this level", "attacks", "attacks",
        "silhouette <level>"),
    Column("DER", "ratio", "[max(0, ASR drop) − max(0, CA drop) + 1] / 2; doing nothing scores 0.5", _DEFENDED,
        _DEFENDED_SHOWN),
    Column("RIR", "ratio", "DER with the gain in RA in place of the drop in ASR", _DEFENDED, _DEFENDED_SHOWN),
    Column("CA_drop", "share", "CA of the victim minus CA of the defended model", _DEFENDED),
    Column("ASR_drop", "share", "ASR of the victim minus ASR of the defended model", _DEFENDED),
    Column("success_10", "yes or no", "ASR is at most 0.1, and CA at most 0.03 lower", _DEFENDED),
    Column("success_20", "yes or no", "ASR is at most 0.2, and CA at most 0.03 lower", _DEFENDED, _DEFENDED_SHOWN,
        "ASR ≤ 20"),
    _row("retrained", "count", "runs in which a model was trained again on the rows that the detector keeps",
        "detection", "runs retrained",
        "detection"),
    _retrained("CA", "share", "detection", "CA retrained"),
    _retrained("CA_target", "share"),
    _retrained("ASR", "share", "detection", "ASR retrained"),
    _retrained("RA", "share"),
    _retrained("DER", "ratio"),
    _retrained("CA_drop", "share"),
    _retrained("ASR_drop", "share"),
    _retrained("success_10", "yes or no"),
    _retrained("success_20", "yes or no"),
    # latents
    *_compared("silhouette", "silhouette of payload against equally many clean rows of its label", "separability",
        "svm_auroc", "separability"),
    *_compared("davies_bouldin",
        "sum of the two groups' radii over the distance of their centers; LOWER = further apart", "separability"),
    *_compared("lda_auroc", "cross-validated AUROC of a discriminant that is told the truth", "separability",
        "distance_auroc"),
    *_compared("svm_auroc", "cross-validated AUROC of a linear SVM that is told the truth", "separability",
        "lda_auroc"),
    *_compared("knn_purity", "share of a row's ten nearest neighbors that are in its own group", "separability"),
    *_compared("mmd", "squared MMD, unbiased", "separability"),
    *_compared("mmd_p", "permutation p of that MMD"),
    *_compared("mmd_five_kernels", "squared MMD with five kernels, the biased estimate of Xia et al."),
    *_compared("energy_distance", "energy distance, in (units of the space)^1/2", "separability"),
    *_compared("sliced_wasserstein", "mean W1 distance over random directions, in units of the space", "separability"),
    *_compared("distance_auroc", "AUROC of the distance to the clean rows' mean, in the space", "separability",
        "transform"),
    Column("silhouette_plain", "ratio", "silhouette over all rows with the target label, as in Qi et al.",
        "separability"),
    Column("effective_rank", "number", "participation ratio of the clean rows' covariance", "separability"),
    Column("spread_ratio", "ratio", "total variance of the target class's clean rows over that of another class; far "
        "below 1 if training contracted the class", "separability", "separability", "spread ratio"),
    # cost
    _mean("holdout_size", "count", "clean images that the method was given; 0 if it needs none", _COST,
        f"{_COST_SHOWN} {_DEFENDED_SHOWN}", "hold-out"),
    _mean("forwards", "count", "images that the method sent forwards through the victim or copies of it; for a "
        "purifier, the judged test images are included", _COST, _COST_SHOWN),
    _mean("backwards", "count", "images that the method sent backwards through the victim or copies of it", _COST,
        _COST_SHOWN),
    _mean("seconds", "number", "wall-clock time of the method", "cost", "cost"),
    _mean("cpu_seconds", "number", "processor time of the method", "cost", "cost", "CPU-seconds"),
    _mean("peak_memory_mb", "number", "peak memory of the method's job", "cost", "cost", "peak MB"),
    # cards only
    _card("status", "words", "`ok`, or `failed`"),
    _card("state", "words", "judged, excluded or failed"),
    _card("victim_flags", "words", "the flags of the victim"),
    _card("CA_victim", "share", "CA before the defense"),
    _card("ASR_victim", "share", "ASR before the defense"),
    _card("RA_victim", "share", "RA before the defense"),
    _card("train_rows", "count", "rows of the training set"),
    _card("target_class", "count", "the class that the attacker wants"),
    _card("target_classes", "words", "all classes that the trigger leads to, joined by `+`"),
    _card("label_map", "words", "how the attack changes labels"),
    _card("paper_asr", "share", "ASR that the attack's own paper reports, where it lowers the validity gate"),
    _card("method", "words", "the method behind the label: of the defense or, in an attack's row, of the attack"),
    _card("parameters", "words", "all its parameters, as JSON: with `method` enough to build it again"),
    _card("training", "words", "the training recipe with all its parameters, as JSON"),
    _card("code", "words", "hash of the code that the method's job ran"),
    _card("looks_at", "words", "what a detector reads besides labels: latents, outputs, images, a training of its own"),
    _card("made_from", "words", "hash of all that a detector's answer depends on"),
    _card("group_rows", "count", "rows in each of the two groups of latents that are compared"),
    _card("fit_rows", "count", "clean rows that the space of the latents was fitted to"),
    _card("non_finite_scores", "count", "rows (classes) whose score is NaN or infinite"),
    _card("non_finite_latents", "count", "rows whose latents are NaN or infinite"),
    _card("commit", "words", "the commit of Keyhole that made the row; `+dirty` with uncommitted changes"),
    _card("versions", "words", "versions of Python, of Keyhole and of the libraries"),
    _card("hardware", "words", "processor and GPU"),
)
# fmt: on


def find(name: str) -> Column:
    """Return the record of a column, of an interval, too.

    Raises:
        KeyError: no record has this name; a new column needs one.
    """
    patterns = []
    for column in COLUMNS:
        if column.name == name:
            return column
        if "<" in column.name:
            patterns.append(column)
    for column in patterns:
        pattern = re.sub("<.*>", "(.+)", re.escape(column.name))
        if match := re.fullmatch(pattern, name):
            heading = re.sub("<.*>", match[1].replace("_", " "), column.heading)
            return replace(column, name=name, heading=heading)
    raise KeyError(f"no record of column {name!r} in keyhole.reporting.columns")


def columns_of_table(table: str, how: Literal["mean", "interval", "retrained"]) -> list[Column]:
    """Return the columns of a table that are aggregated like this, without those that every table has."""
    return [c for c in COLUMNS if c.tables != _EVERY and table in c.tables.split() and c.aggregate == how]


def columns_of_section(section: str) -> list[Column]:
    """Return the columns that a section of a rendered table shows, in their order there."""
    chosen = [column for column in COLUMNS if section in column.shown.split()]
    names = {column.name for column in chosen}

    def with_followers(column: Column) -> Iterator[Column]:
        yield column
        for other in chosen:
            if other.after == column.name:
                yield from with_followers(other)

    first = [column for column in chosen if column.after not in names]
    return [each for column in first for each in with_followers(column)]
