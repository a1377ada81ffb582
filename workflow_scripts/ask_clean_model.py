"""Record the clean model's predictions on images with an attack's trigger: its ASR without a backdoor."""

from keyhole import artifacts
from keyhole.running.answers import answer, load_exam
from keyhole.running.nets import load_net
from keyhole.running.origin import origin
from keyhole.running.setup import begin, instantiate

begin(snakemake)
cell, given, params = snakemake.wildcards, snakemake.input, snakemake.params
exam = load_exam(params["attack"], given["trigger"], given["test"], cell["dataset"], cell["seed"])
_, described = instantiate("attacks", params["attack"])
facts = {**described, "code": params["code"], **origin()}
artifacts.save(snakemake.output[0], answer(load_net(given["model"]), exam), facts)
