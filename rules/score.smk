# apart from the other scores, since it takes the longest of them
rule separability:
    input:
        train=f"{DATA}/train.safetensors",
        poisoned=received,
        predictions=f"{VICTIM}/predictions.safetensors",
        latents=f"{VICTIM}/latents.safetensors",
    output:
        f"{VICTIM}/separability.json",
    log:
        f"{VICTIM}/separability.log",
    resources:
        mem_mb=memory(3000),
        runtime=20,
    params:
        levels=json.dumps(GRID.levels_read()),
        code=code("separability"),
    script:
        "../workflow_scripts/separability.py"


# One job for all cards of a victim: short work, which would mostly be start-up if each card had a job. Without torch.
rule score:
    input:
        train=f"{DATA}/train.safetensors",
        test=f"{DATA}/test.safetensors",
        poisoned=received,
        predictions=f"{VICTIM}/predictions.safetensors",
        reference=f"{VICTIM}/natural.safetensors",
        separability=f"{VICTIM}/separability.json",
        detectors=answers("detectors"),
        retrained=lambda cell: [
            f"{VICTIM}/detect/{label}/retrained/predictions.safetensors".format(**cell)
            for label in retrained(cell)
        ],
        inverters=answers("inverters"),
        repairers=answers("repairers"),
        filters=answers("filters"),
        purifiers=answers("purifiers"),
        trainers=lambda cell: [
            f"{VICTIM}/train/{label}/predictions.safetensors".format(**cell)
            for label in trainers(cell)
        ],
    output:
        f"{VICTIM}/cards.json",
    log:
        f"{VICTIM}/score.log",
    resources:
        mem_mb=memory(3000),
        runtime=20,
    params:
        labels=lambda cell: json.dumps(
            {
                "retrained": retrained(cell),
                **{role: GRID.labels(role) for role in DEFENSES},
                "trainers": trainers(cell),
            },
            sort_keys=True,
        ),
        code=code("score"),
    script:
        "../workflow_scripts/score.py"
