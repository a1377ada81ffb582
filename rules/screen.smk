# at test time: decide which inputs to refuse, or remove triggers from inputs
rule filter:
    input:
        training_set=training_set("filter"),
        test=TEST,
        holdout=HOLDOUT,
        trigger=f"{VICTIM}/trigger.safetensors",
        model=f"{VICTIM}/model.safetensors",
    output:
        f"{VICTIM}/filter/{{filter}}/suspicion.safetensors",
    log:
        f"{VICTIM}/filter/{{filter}}/filter.log",
    resources:
        gpu=1,
        mem_mb=memory(2000),
        runtime=minutes(60),
    params:
        attack=entry("attack"),
        filter=entry("filter"),
        images=GRID.screened_images,
        code=code("filter", "attack", "filter", "model"),
    script:
        "../workflow_scripts/filter.py"


rule purify:
    input:
        training_set=training_set("purifier"),
        test=TEST,
        holdout=HOLDOUT,
        trigger=f"{VICTIM}/trigger.safetensors",
        model=f"{VICTIM}/model.safetensors",
    output:
        f"{VICTIM}/purify/{{purifier}}/predictions.safetensors",
    log:
        f"{VICTIM}/purify/{{purifier}}/purify.log",
    resources:
        gpu=1,
        mem_mb=memory(2000),
        runtime=minutes(60),
    params:
        attack=entry("attack"),
        purifier=entry("purifier"),
        code=code("purify", "attack", "purifier", "model"),
    script:
        "../workflow_scripts/purify.py"
