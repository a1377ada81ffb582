from keyhole.reporting import figures


# draw the pictures of one victim
rule draw:
    input:
        train=TRAIN,
        holdout=HOLDOUT,
        poisoned=poisoned_file,
        trigger=f"{VICTIM}/trigger.safetensors",
        latents=f"{VICTIM}/latents.safetensors",
        cards=f"{VICTIM}/cards.json",
        inversions=answer_files("inverters"),
    output:
        preview=f"{VICTIM}/preview.png",
        latents=f"{VICTIM}/latents.png",
        inversions=[f"{VICTIM}/inversions.png"] if GRID.labels("inverters") else [],
        triggers=answer_files("inverters", "triggers.png"),
    log:
        f"{VICTIM}/draw.log",
    resources:
        mem_mb=memory(1500),
        runtime=minutes(20),
    params:
        attack=entry("attack"),
        level=GRID.levels[-1],
        code=code("draw", "attack"),
    script:
        "../workflow_scripts/draw.py"


def figure_files(suffix):
    """Return the files of the figures for which the grid has data."""
    return [f"{RESULTS}/figures/{name}.{suffix}" for name in figures.names(GRID)]


rule plot:
    input:
        f"{RESULTS}/tables/cards.csv",
        f"{RESULTS}/tables/detection.csv",
    output:
        figure_files("png"),
        figure_files("pdf"),
    log:
        f"{RESULTS}/figures/plot.log",
    localrule: True
    params:
        code=code("plot"),
    script:
        "../workflow_scripts/plot.py"
