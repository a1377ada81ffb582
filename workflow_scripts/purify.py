"""Put a purifier in front of the victim, and record what the two predict on clean and triggered test images."""

from keyhole import artifacts, rng
from keyhole.running.answers import answer, load_exam
from keyhole.running.devices import on_device
from keyhole.running.inputs import limit_holdout, load_evidence
from keyhole.running.passes import attempt_and_count
from keyhole.running.setup import begin, instantiate

begin(snakemake)
cell, given, params = snakemake.wildcards, snakemake.input, snakemake.params
purifier, described = instantiate("purifiers", params["purifier"])
exam = load_exam(params["attack"], given["trigger"], given["test"], cell["dataset"], cell["seed"])
evidence = load_evidence(given["model"], given["holdout"], *given["training_set"])
stream = rng.stream("purify", cell["dataset"], cell["seed"], cell["purifier"])


def answer_purified(evidence):
    return answer(evidence.net, exam, lambda images: purifier.purify(evidence, on_device(images), stream))


outcome = attempt_and_count(answer_purified, limit_holdout(evidence, purifier, params["purifier"]))
facts = {**described, "code": params["code"], **outcome.facts}
artifacts.save(snakemake.output[0], outcome.value or {}, facts)
