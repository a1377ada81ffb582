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
        costs=f"{RESULTS}/tables/costs.csv",
        missing=f"{RESULTS}/tables/missing.csv",
        rendered=f"{RESULTS}/tables/rendered.json",
        summary=f"{RESULTS}/summary.txt",
    log:
        f"{RESULTS}/tables/tabulate.log",
    localrule: True
    params:
        victims=json.dumps([str(cell) for cell in GRID.cells()]),
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


GALLERIES = {str(cell): GRID.pictures_of(cell) for cell in GRID.cells()}


rule report:
    input:
        pictures=[file for files in GALLERIES.values() for file in files],
        rendered=rules.tabulate.output.rendered,
        figures=figure_files("png"),
    output:
        f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/report.log",
    localrule: True
    params:
        config=json.dumps(config),
        galleries=json.dumps(GALLERIES),
        code=code("report"),
    script:
        "../workflow_scripts/report.py"


def everything():
    """Return all results, so that one that was deleted is made again; not what is only on the way to them."""
    files = [*rules.report.output, *rules.tabulate.output, *rules.plot.output]
    for cell in GRID.cells():
        files += GRID.cards_of(cell) + GRID.answers_of(cell) + GRID.pictures_of(cell)
    return files
