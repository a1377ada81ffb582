"""What the clean model answers to an attack's trigger: the ASR that the trigger has by nature."""

from keyhole import artifacts
from keyhole.running import jobs
from keyhole.running.evaluation import answers

jobs.begin(snakemake)
net = jobs.load_net(snakemake.input["model"])
attack = jobs.equipped_attack(snakemake.params["attack"], snakemake.input["trigger"])
test = artifacts.load_tensors(snakemake.input["test"])
artifacts.save(snakemake.output[0], answers(net, attack, test, snakemake.wildcards))
