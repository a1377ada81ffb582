rule fetch:
    input:
        records.long_ago(MEMORY / "long_ago"),
    output:
        **{part: f"{DATA}/{part}.safetensors" for part in ("train", "test")},
    log:
        f"{DATA}/fetch.log",
    resources:
        mem_mb=memory(4000),
        runtime=minutes(60),
    params:
        dataset=entry("dataset"),
        # Snakemake does not compare params that are functions of `input`, so a folder that was moved reruns nothing
        data_dir=lambda cell, input: GRID.data_dir,
        code=code("fetch", "dataset"),
    script:
        "../workflow_scripts/fetch.py"


# draw the defender's hold-out of a seed; what remains of its split is stored as row numbers, not as a copy
rule hold_out:
    input:
        whole=f"{DATA}/{GRID.holdout.source}.safetensors",
    output:
        holdout=HOLDOUT,
        rest=f"{HELD}/{GRID.holdout.source}.safetensors",
    log:
        f"{HELD}/hold_out.log",
    resources:
        mem_mb=memory(2000),
        runtime=minutes(20),
    params:
        holdout=GRID.holdout.canonical,
        code=code("hold_out"),
    script:
        "../workflow_scripts/hold_out.py"
