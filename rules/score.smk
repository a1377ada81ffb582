from keyhole.planning.roles import DEFENSES


def retrained(cell):
    """Return the detectors after which a model is trained again on the rows that they keep."""
    return GRID.retrained(cell["attack"], cell["rate"], int(cell["seed"]))


# apart from the other scores, since it takes longest
rule separability:
    input:
        train=TRAIN,
        poisoned=poisoned_file,
        predictions=f"{VICTIM}/predictions.safetensors",
        latents=f"{VICTIM}/latents.safetensors",
    output:
        f"{VICTIM}/separability.json",
    log:
        f"{VICTIM}/separability.log",
    resources:
        mem_mb=memory(1000),
        runtime=minutes(20),
    params:
        levels=json.dumps(GRID.levels_read()),
        code=code("separability"),
    script:
        "../workflow_scripts/separability.py"


# One job for all cards of a victim, since a job for each card would mostly start Python. It does not import torch.
rule score:
    input:
        train=TRAIN,
        test=TEST,
        poisoned=poisoned_file,
        predictions=f"{VICTIM}/predictions.safetensors",
        reference=f"{VICTIM}/natural.safetensors",
        separability=f"{VICTIM}/separability.json",
        detectors=answer_files("detectors"),
        retrained=lambda cell: [
            f"{VICTIM}/detect/{label}/retrained/predictions.safetensors".format(**cell)
            for label in retrained(cell)
        ],
        inverters=answer_files("inverters"),
        repairers=answer_files("repairers"),
        filters=answer_files("filters"),
        purifiers=answer_files("purifiers"),
        trainers=lambda cell: [
            f"{VICTIM}/train/{label}/predictions.safetensors".format(**cell)
            for label in GRID.trainers_for(cell["attack"])
        ],
    output:
        f"{VICTIM}/cards.json",
    log:
        f"{VICTIM}/score.log",
    resources:
        mem_mb=memory(1000),
        runtime=minutes(20),
    params:
        labels=lambda cell: json.dumps(
            {
                "retrained": retrained(cell),
                **{role: GRID.labels(role) for role in DEFENSES},
                "trainers": GRID.trainers_for(cell["attack"]),
            },
            sort_keys=True,
        ),
        recipe=lambda cell: GRID.recipe_name(cell["model"]),
        code=code("score"),
    script:
        "../workflow_scripts/score.py"
