"""Figures over the whole grid."""

from pathlib import Path

from keyhole.reporting import tables
from keyhole.reporting.figures import FIGURES

found = tables.collect(snakemake.input)
for file in snakemake.output:
    FIGURES[Path(file).stem](found, file)
