# train on the received set as a trainer does
rule train_defended:
    input:
        train=f"{DATA}/train.safetensors",
        test=f"{DATA}/test.safetensors",
        poisoned=received,
        trigger=f"{VICTIM}/trigger.safetensors",
    output:
        model=f"{VICTIM}/train/{{trainer}}/model.safetensors",
        predictions=f"{VICTIM}/train/{{trainer}}/predictions.safetensors",
    log:
        f"{VICTIM}/train/{{trainer}}/train.log",
    resources:
        mem_mb=memory(4000),
        runtime=240,
    params:
        attack=entry("attack"),
        trainer=entry("trainer"),
        recipe=recipe,
        code=code("train_defended", "attack", "trainer", "model"),
    script:
        "../workflow_scripts/train_defended.py"


def inversion_before(cell):
    """The answer of the inverter that the repairer starts from; most start from the victim only."""
    inverter = GRID.inverter_before(cell["repairer"])
    path = f"{VICTIM}/invert/{{inverter}}/inversion.safetensors"
    return [] if inverter is None else path.format(**cell, inverter=inverter)


rule repair:
    input:
        training_set=training_set("repairer"),
        test=f"{DATA}/test.safetensors",
        holdout=f"{DATA}/holdout.safetensors",
        trigger=f"{VICTIM}/trigger.safetensors",
        model=f"{VICTIM}/model.safetensors",
        inversion=inversion_before,
    output:
        model=f"{VICTIM}/repair/{{repairer}}/model.safetensors",
        predictions=f"{VICTIM}/repair/{{repairer}}/predictions.safetensors",
    log:
        f"{VICTIM}/repair/{{repairer}}/repair.log",
    resources:
        mem_mb=memory(4000),
        runtime=240,
    params:
        attack=entry("attack"),
        repairer=entry("repairer"),
        code=code("repair", "attack", "repairer", "model"),
    script:
        "../workflow_scripts/repair.py"
