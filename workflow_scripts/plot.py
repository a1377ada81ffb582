"""Draw the figures of the whole grid."""

from keyhole.reporting import figures
from keyhole.running.logs import open_log

open_log(snakemake)

figures.draw(snakemake.input, snakemake.output)
