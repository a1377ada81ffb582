from keyhole.planning.roles import CLEAN
from keyhole.reporting.figures import FIGURES


# pictures of one victim
rule draw:
    input:
        train=f"{DATA}/train.safetensors",
        holdout=f"{DATA}/holdout.safetensors",
        poisoned=received,
        trigger=f"{VICTIM}/trigger.safetensors",
        latents=f"{VICTIM}/latents.safetensors",
        cards=f"{VICTIM}/cards.json",
        inversions=answers("inverters"),
    output:
        preview=f"{VICTIM}/preview.png",
        latents=f"{VICTIM}/latents.png",
        inversions=[f"{VICTIM}/inversions.png"] if GRID.labels("inverters") else [],
        triggers=answers("inverters", "triggers.png"),
    log:
        f"{VICTIM}/draw.log",
    resources:
        mem_mb=memory(3000),
        runtime=20,
    params:
        attack=entry("attack"),
        level=GRID.levels[-1],
        code=code("draw", "attack"),
    script:
        "../workflow_scripts/draw.py"


def figures(suffix):
    """The files of the figures that the grid has something for."""
    several_rates = any(
        label != CLEAN and len(GRID.rates_of(label)) > 1
        for label in GRID.labels("attacks")
    )
    has = {
        "": True,
        "several rates": several_rates,
        "retraining": any(retrained(vars(cell)) for cell in GRID.cells()),
    }
    return [
        f"{RESULTS}/figures/{name}.{suffix}"
        for name, plot in FIGURES.items()
        if has[plot.needs]
    ]


rule plot:
    input:
        f"{RESULTS}/tables/cards.csv",
        f"{RESULTS}/tables/detection.csv",
    output:
        figures("png"),
        figures("pdf"),
    log:
        f"{RESULTS}/figures/plot.log",
    localrule: True
    params:
        code=code("plot"),
    script:
        "../workflow_scripts/plot.py"
