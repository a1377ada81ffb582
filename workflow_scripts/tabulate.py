"""All tables of the grid, and the page that a run ends with."""

import json
from pathlib import Path

from keyhole import artifacts
from keyhole.reporting import tables

found = tables.collect(snakemake.input)
skipped = [(cell, why) for cell, why in json.loads(snakemake.params["skipped"])]
folder = Path(snakemake.output["cards"]).parent
tables.write(found, folder, skipped)
places = "\n".join(f"  {name:<9}{place}" for name, place in json.loads(snakemake.params["places"]).items())
artifacts.save_text(snakemake.output["summary"], f"{tables.main_table(found, skipped)}\n\n{places}\n")
