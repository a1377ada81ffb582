# Keyhole: attack x defense x data set x poison rate x model x seed.
#
#   results/data/<dataset>/                                        train, test
#   results/data/<dataset>/seed=<seed>/                            the hold-out of a seed, and which rows remain
#   results/shared/<dataset>/                                      surrogates of attackers, models trained again
#   results/<dataset>/<attack>/crafted/seed=<seed>/                what an attack learned before it poisons, if any
#   results/<dataset>/<attack>/rate=<rate>/seed=<seed>/            the poisoned rows
#       <model>/ or <model>+<recipe>/                              the victim, its latents, its cards
#           detect/ invert/ repair/ train/ filter/ purify/ <defense>/   what a defense returned
#   results/tables  results/figures  results/report.html
#
# `rate` is the poison rate: payload rows / all training rows. The clean reference is the attack `none` at rate 0.
from snakemake.utils import min_version

min_version("9.16")


include: "rules/common.smk"
include: "rules/functions.smk"
include: "rules/data.smk"
include: "rules/poison.smk"
include: "rules/train.smk"
include: "rules/detect.smk"
include: "rules/invert.smk"
include: "rules/repair.smk"
include: "rules/screen.smk"
include: "rules/score.smk"
include: "rules/plot.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        everything(),
    localrule: True


if plan.planned_config() is None:  # not a job, but the process that starts the run
    records.settle(Path(RESULTS), expected)
    plan.freeze(config, MEMORY, SCRIPTS)


onstart:
    try:
        hold(Path(RESULTS))
    except Held as error:
        sys.exit(str(error))


onsuccess:
    page = Path(RESULTS, "summary.txt")
    if page.exists():  # missing if --until stopped at an earlier rule
        print(page.read_text())


# what is finished has its tables, marked as incomplete, whatever stopped the run
onerror:
    from keyhole.reporting import unfinished

    print(unfinished.write(GRID, config))
