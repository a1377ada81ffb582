FOUND = f"{VICTIM}/detect/{{detector}}"


# detectors that share one job of a victim, and those that are long enough for their own
LONG = [
    label
    for label in GRID.labels("detectors")
    if GRID.facts_of("detectors", label)[0].long
]
SHORT = [label for label in GRID.labels("detectors") if label not in LONG]


def detectors_of(labels):
    """Of each detector of a job: its entry, and the hash of its code."""

    def of_job(cell):
        entries = {
            label: (
                GRID.entry("detectors", label).canonical,
                code("detect", "detector", "model")({**cell, "detector": label}),
            )
            for label in labels or [cell["detector"]]
        }
        return json.dumps(entries)

    return of_job


# Most detectors take less time than torch needs to start. The job keeps what is up to date, so a new detector, or an
# edited one, costs only its own work.
rule detect:
    input:
        train=f"{DATA}/train.safetensors",
        holdout=f"{DATA}/holdout.safetensors",
        poisoned=received,
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
        mem_mb=memory(4000),
        runtime=120,
    params:
        detectors=detectors_of(SHORT),
    script:
        "../workflow_scripts/detect.py"


use rule detect as detect_long with:
    output:
        update(f"{FOUND}/suspicion.safetensors"),
    log:
        f"{FOUND}/detect.log",
    wildcard_constraints:
        detector="|".join(LONG) or "none",
    resources:
        mem_mb=memory(4000),
        runtime=240,
    params:
        detectors=detectors_of(None),


# train anew on what the detector keeps; detectors that keep the same rows share one model
rule retrain:
    input:
        train=f"{DATA}/train.safetensors",
        test=f"{DATA}/test.safetensors",
        poisoned=received,
        trigger=f"{VICTIM}/trigger.safetensors",
        model=f"{VICTIM}/model.safetensors",
        suspicion=f"{FOUND}/suspicion.safetensors",
    output:
        model=f"{FOUND}/retrained/model.safetensors",
        predictions=f"{FOUND}/retrained/predictions.safetensors",
    log:
        f"{FOUND}/retrained/retrain.log",
    resources:
        mem_mb=memory(4000),
        runtime=240,
    params:
        attack=entry("attack"),
        recipe=recipe,
        shared=f"{SHARED}/retrained/seed={{seed}}/{{model}}",
        code=code("retrain", "model"),
    script:
        "../workflow_scripts/retrain.py"
