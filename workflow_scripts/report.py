"""Write one page with the configuration, the tables, the figures and the pictures of each victim."""

import json
from pathlib import Path

import yaml

from keyhole.reporting import report
from keyhole.running.logs import open_log

open_log(snakemake)

params = snakemake.params
report.write(
    snakemake.output[0],
    json.loads(Path(snakemake.input["rendered"]).read_text()),
    yaml.safe_dump(json.loads(params["config"]), sort_keys=False, default_flow_style=None),
    snakemake.input["figures"],
    json.loads(params["galleries"]),
)
