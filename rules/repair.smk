# train again on the rows that a detector keeps; detectors that keep the same rows share one model
rule retrain:
    input:
        train=TRAIN,
        test=TEST,
        poisoned=poisoned_file,
        trigger=f"{VICTIM}/trigger.safetensors",
        model=f"{VICTIM}/model.safetensors",
        suspicion=f"{DETECTION}/suspicion.safetensors",
    output:
        model=f"{DETECTION}/retrained/model.safetensors",
        predictions=f"{DETECTION}/retrained/predictions.safetensors",
    log:
        f"{DETECTION}/retrained/retrain.log",
    resources:
        gpu=1,
        mem_mb=memory(2000),
        runtime=minutes(240),
    params:
        attack=entry("attack"),
        recipe=recipe,
        shared=f"{SHARED}/retrained/seed={{seed}}/{{model}}",
        code=code("retrain", "model"),
    script:
        "../workflow_scripts/retrain.py"


# let a trainer train on the poisoned set
rule train_defended:
    input:
        train=TRAIN,
        test=TEST,
        poisoned=poisoned_file,
        trigger=f"{VICTIM}/trigger.safetensors",
    output:
        model=f"{VICTIM}/train/{{trainer}}/model.safetensors",
        predictions=f"{VICTIM}/train/{{trainer}}/predictions.safetensors",
    log:
        f"{VICTIM}/train/{{trainer}}/train.log",
    resources:
        gpu=1,
        mem_mb=memory(2000),
        runtime=minutes(240),
    params:
        attack=entry("attack"),
        trainer=entry("trainer"),
        recipe=recipe,
        code=code("train_defended", "attack", "trainer", "model"),
    script:
        "../workflow_scripts/train_defended.py"


def inversion_file(cell):
    """Return the answer of the inverter that a repairer starts from; most start from the victim only."""
    inverter = GRID.inverter_before(cell["repairer"])
    path = f"{VICTIM}/invert/{{inverter}}/inversion.safetensors"
    return [] if inverter is None else path.format(**cell, inverter=inverter)


rule repair:
    input:
        training_set=training_set("repairer"),
        test=TEST,
        holdout=HOLDOUT,
        trigger=f"{VICTIM}/trigger.safetensors",
        model=f"{VICTIM}/model.safetensors",
        inversion=inversion_file,
    output:
        model=f"{VICTIM}/repair/{{repairer}}/model.safetensors",
        predictions=f"{VICTIM}/repair/{{repairer}}/predictions.safetensors",
    log:
        f"{VICTIM}/repair/{{repairer}}/repair.log",
    resources:
        gpu=1,
        mem_mb=memory(2000),
        runtime=minutes(240),
    params:
        attack=entry("attack"),
        repairer=entry("repairer"),
        code=code("repair", "attack", "repairer", "model"),
    script:
        "../workflow_scripts/repair.py"
