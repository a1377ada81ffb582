def surrogate_file(cell):
    """Return the file of the attacker's own network if the attack needs one."""
    needed = GRID.crafted_from[cell["attack"]] == "surrogate"
    path = f"{SURROGATE}.safetensors".format(**cell, model=GRID.surrogate)
    return [path] if needed else []


# of the attackers' own architecture, which need not be one of the victims'
rule surrogate:
    input:
        train=TRAIN,
    output:
        f"{SURROGATE}.safetensors",
    log:
        f"{SURROGATE}.log",
    wildcard_constraints:
        model=GRID.surrogate,
    resources:
        gpu=1,
        mem_mb=memory(2000),
        runtime=minutes(240),
    params:
        recipe=recipe,
        code=code("surrogate", "model"),
    script:
        "../workflow_scripts/surrogate.py"


# learn what an attack needs before it poisons, once for all poison rates
rule craft:
    input:
        train=TRAIN,
        surrogate=surrogate_file,
    output:
        f"{CRAFTED}/crafted.safetensors",
    log:
        f"{CRAFTED}/craft.log",
    resources:
        gpu=1,
        mem_mb=memory(2000),
        runtime=minutes(120),
    params:
        attack=entry("attack"),
        code=code("craft", "attack"),
    script:
        "../workflow_scripts/craft.py"


rule poison:
    input:
        train=TRAIN,
        crafted=crafted_file,
    output:
        f"{RUN}/poisoned.safetensors",
    log:
        f"{RUN}/poison.log",
    resources:
        mem_mb=memory(2000),
        runtime=minutes(30),
    params:
        attack=entry("attack"),
        code=code("poison", "attack"),
    script:
        "../workflow_scripts/poison.py"
