rule fetch:
    output:
        **{part: f"{DATA}/{part}.safetensors" for part in ("train", "test", "holdout")},
    log:
        f"{DATA}/fetch.log",
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        dataset=entry("dataset"),
        holdout=GRID.holdout.canonical,
        # Snakemake does not compare params that are functions of `input`, so a folder that was moved reruns nothing
        data_dir=lambda cell, input: GRID.data_dir,
        code=code("fetch", "dataset"),
    script:
        "../workflow_scripts/fetch.py"
