from keyhole.reporting.columns import TABLES


rule tabulate:
    input:
        [f"{VICTIM}/cards.json".format(**cell.wildcards) for cell in GRID.cells()],
    output:
        [
            f"{RESULTS}/tables/{name}.{kind}"
            for name in TABLES
            for kind in ("csv", "md", "tex")
        ],
        cards=f"{RESULTS}/tables/cards.csv",
        rendered=f"{RESULTS}/tables/rendered.json",
        summary=f"{RESULTS}/summary.txt",
    log:
        f"{RESULTS}/tables/tabulate.log",
    localrule: True
    params:
        skipped=json.dumps([(str(cell), why) for cell, why in GRID.skipped()]),
        places=json.dumps(
            {
                "tables": f"{RESULTS}/tables/*.csv *.md *.tex",
                "figures": f"{RESULTS}/figures/*.pdf *.png",
                "report": f"{RESULTS}/report.html",
            }
        ),
        code=code("tabulate"),
    script:
        "../workflow_scripts/tabulate.py"


def galleries():
    """Return the title of each victim and its pictures."""
    pictures = {}
    for cell in GRID.cells():
        files = [
            f"{VICTIM}/preview.png",
            f"{VICTIM}/latents.png",
            *([f"{VICTIM}/inversions.png"] if GRID.labels("inverters") else []),
            *answer_files("inverters", "triggers.png"),
        ]
        pictures[str(cell)] = [file.format(**cell.wildcards) for file in files]
    return pictures


rule report:
    input:
        pictures=[file for files in galleries().values() for file in files],
        rendered=rules.tabulate.output.rendered,
        figures=figure_files("png"),
    output:
        f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/report.log",
    localrule: True
    params:
        config=json.dumps(config),
        galleries=json.dumps(galleries()),
        code=code("report"),
    script:
        "../workflow_scripts/report.py"
