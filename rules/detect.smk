# long detectors have a job each; the others share one job for each victim
LONG = [
    label
    for label in GRID.labels("detectors")
    if GRID.facts_of("detectors", label)[0].long
]
SHORT = [label for label in GRID.labels("detectors") if label not in LONG]


def detectors_of(labels):
    """Return the entry and the code hash of each detector of a job; without `labels`, of the one in the path."""

    def of_job(cell):
        entries = {}
        for label in labels or [cell["detector"]]:
            digest = code("detect", "detector", "model")({**cell, "detector": label})
            entries[label] = GRID.entry("detectors", label).canonical, digest
        return json.dumps(entries)

    return of_job


# One job for all short detectors, since most take less time than torch needs to start. The job keeps answers that are
# up to date, so only new and edited detectors run.
rule detect:
    input:
        train=TRAIN,
        holdout=HOLDOUT,
        poisoned=poisoned_file,
        model=f"{VICTIM}/model.safetensors",
        latents=f"{VICTIM}/latents.safetensors",
    output:
        [
            update(f"{VICTIM}/detect/{label}/suspicion.safetensors")
            for label in SHORT or ["none"]
        ],
    log:
        f"{VICTIM}/detect/detect.log",
    resources:
        gpu=1,
        mem_mb=memory(2000),
        runtime=minutes(120),
    params:
        detectors=detectors_of(SHORT),
    script:
        "../workflow_scripts/detect.py"


use rule detect as detect_long with:
    output:
        update(f"{DETECTION}/suspicion.safetensors"),
    log:
        f"{DETECTION}/detect.log",
    wildcard_constraints:
        detector="|".join(LONG) or "none",
    resources:
        gpu=1,
        mem_mb=memory(2000),
        runtime=minutes(240),
    params:
        detectors=detectors_of(None),
