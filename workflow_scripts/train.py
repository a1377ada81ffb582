"""Train the victim on the poisoned set, and record what it predicts on clean and triggered test images."""

from keyhole import artifacts
from keyhole.running import jobs
from keyhole.running.evaluation import answers
from keyhole.types import Poisoned

jobs.begin(snakemake)
cell = snakemake.wildcards
clean = artifacts.load_tensors(snakemake.input["train"])
images, labels = jobs.on_device(clean["images"]), jobs.on_device(clean["labels"])
attack = jobs.equipped_attack(snakemake.params["attack"], snakemake.input["crafted"])
net, recipe, stream = jobs.untrained(snakemake, "train")
poisoned = artifacts.load(snakemake.input["poisoned"], Poisoned)

outcome = jobs.attempt(attack.train, net, images, labels, poisoned, recipe, stream)
if outcome.value is None:  # without a victim there is no cell: the scheduler reports it, and may try again
    raise SystemExit(f"training failed: {outcome.facts['reason']}")
attack = attack.equipped({**attack.tensors, **outcome.value})
facts = {
    **outcome.facts,
    **{name: getattr(attack, name) for name in ("controls", "target_class", "label_map", "paper_asr")},
    "target_classes": list(attack.target_classes(net.head.out_features)),
    "method": type(attack).__module__.rpartition(".")[2],
    "parameters": repr(attack),
    "recipe": repr(recipe),
}
jobs.save_net(snakemake.output["model"], net, cell["model"], images.shape[1:], facts)
artifacts.save(snakemake.output["trigger"], attack.tensors)
test = artifacts.load_tensors(snakemake.input["test"])
artifacts.save(snakemake.output["predictions"], answers(net, attack, test, cell), facts)
