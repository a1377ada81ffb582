"""Write all tables of the grid, and the summary that is printed at the end of a run."""

import json
from pathlib import Path

from keyhole import artifacts
from keyhole.reporting.runs import collect
from keyhole.reporting.tables import tabulate
from keyhole.running.logs import open_log

open_log(snakemake)

tables = tabulate(collect(snakemake.input), json.loads(snakemake.params["skipped"]))
tables.write(Path(snakemake.output["cards"]).parent)
places = "\n".join(f"  {name:<9}{place}" for name, place in json.loads(snakemake.params["places"]).items())
artifacts.save_text(snakemake.output["summary"], f"{tables.summary}\n\n{places}\n")
