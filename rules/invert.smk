rule invert:
    input:
        training_set=training_set("inverter"),
        test=TEST,
        holdout=HOLDOUT,
        trigger=f"{VICTIM}/trigger.safetensors",
        model=f"{VICTIM}/model.safetensors",
    output:
        f"{VICTIM}/invert/{{inverter}}/inversion.safetensors",
    log:
        f"{VICTIM}/invert/{{inverter}}/invert.log",
    resources:
        gpu=1,
        mem_mb=memory(2000),
        runtime=minutes(240),
    params:
        attack=entry("attack"),
        inverter=entry("inverter"),
        code=code("invert", "attack", "inverter", "model"),
    script:
        "../workflow_scripts/invert.py"
