"""Train the attacker's own network on the clean set; its initial weights and batches differ from every victim's."""

from keyhole import artifacts, models, rng
from keyhole.learning import recipes, training
from keyhole.running.devices import on_device
from keyhole.running.nets import save_net
from keyhole.running.setup import begin

begin(snakemake)
cell, train = snakemake.wildcards, snakemake.input["train"]
clean, classes = artifacts.load_tensors(train), artifacts.facts(train)["classes"]
stream = rng.stream("surrogate", cell["dataset"], cell["model"], cell["seed"])
net = on_device(models.build(cell["model"], classes, clean["images"], stream))
training.fit(net, clean["images"], clean["labels"], recipes.parse(snakemake.params["recipe"]), stream)
save_net(snakemake.output[0], net, cell["model"], clean["images"].shape[1:], {})
