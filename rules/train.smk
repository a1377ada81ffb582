rule train:
    input:
        train=TRAIN,
        test=TEST,
        poisoned=f"{RUN}/poisoned.safetensors",
        crafted=crafted_file,
    output:
        model=f"{VICTIM}/model.safetensors",
        trigger=f"{VICTIM}/trigger.safetensors",
        predictions=f"{VICTIM}/predictions.safetensors",
    log:
        f"{VICTIM}/train.log",
    resources:
        gpu=1,
        mem_mb=memory(2000),
        runtime=minutes(240),
    params:
        attack=entry("attack"),
        recipe=recipe,
        code=code("train", "attack", "model"),
    script:
        "../workflow_scripts/train.py"


# if the attacker trains the victim: the poisoned rows with the trigger that training ended with
rule materialize:
    input:
        train=TRAIN,
        poisoned=f"{RUN}/poisoned.safetensors",
        trigger=f"{VICTIM}/trigger.safetensors",
    output:
        f"{VICTIM}/materialized.safetensors",
    log:
        f"{VICTIM}/materialize.log",
    resources:
        mem_mb=memory(2000),
        runtime=minutes(30),
    params:
        attack=entry("attack"),
        code=code("materialize", "attack"),
    script:
        "../workflow_scripts/materialize.py"


# the clean model's predictions on images with the trigger of this attack
rule ask_clean_model:
    input:
        test=TEST,
        model=f"{CLEAN_VICTIM}/model.safetensors",
        trigger=f"{VICTIM}/trigger.safetensors",
    output:
        f"{VICTIM}/natural.safetensors",
    log:
        f"{VICTIM}/natural.log",
    resources:
        gpu=1,
        mem_mb=memory(2000),
        runtime=minutes(30),
    params:
        attack=entry("attack"),
        code=code("ask_clean_model", "attack", "model"),
    script:
        "../workflow_scripts/ask_clean_model.py"


rule latents:
    input:
        train=TRAIN,
        poisoned=poisoned_file,
        model=f"{VICTIM}/model.safetensors",
    output:
        f"{VICTIM}/latents.safetensors",
    log:
        f"{VICTIM}/latents.log",
    resources:
        gpu=1,
        mem_mb=memory(2000),
        runtime=minutes(60),
    params:
        levels=json.dumps(GRID.levels_read()),
        code=code("latents", "model"),
    script:
        "../workflow_scripts/latents.py"
