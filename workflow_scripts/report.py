"""One page with everything: the grid, tables, figures, and the pictures of each victim."""

import json

import yaml

from keyhole.reporting import report, tables

given, params = snakemake.input, snakemake.params
report.write(
    snakemake.output[0],
    tables.collect(given["cards"]),
    yaml.safe_dump(json.loads(params["config"]), sort_keys=False, default_flow_style=None),
    [given["figures"]] if isinstance(given["figures"], str) else given["figures"],
    json.loads(params["galleries"]),
    [(cell, why) for cell, why in json.loads(params["skipped"])],
)
