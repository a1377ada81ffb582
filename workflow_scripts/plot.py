"""Draw the figures of the whole grid."""

from keyhole.reporting import figures

figures.draw(snakemake.input, snakemake.output)
