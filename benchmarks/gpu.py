"""Measure Keyhole on a GPU: `python benchmarks/gpu.py --data FOLDER --out gpu.json`, at most eight minutes.

It needs the source tree, Python 3.11, torch 2.11, NumPy and safetensors; neither an installed Keyhole nor a network. A
method that needs another package than those is tried, and its line says what is missing. FOLDER has `cifar10.npz`.

The file is written after each step. A step that is in it is not repeated unless it failed, so a run that was cut off
goes on. Steps for which the time is not enough are left out and listed. `--device pretend --small` rehearses all steps
with random pictures on a device that computes on the CPU and refuses what a GPU refuses.
"""

import argparse
import importlib
import json
import platform
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))


def stand_in(name: str, **members: Any) -> None:
    """Put a module with these members in the place of a package that is not installed."""
    try:
        importlib.import_module(name)
    except ImportError:
        module = types.ModuleType(name)
        module.__dict__.update(members)
        sys.modules[name] = module


class Annotation:
    """Stands for an annotation of a tensor's shape."""

    def __class_getitem__(cls, item: Any) -> Any:
        return item[0] if isinstance(item, tuple) else Any


@dataclass(frozen=True)
class Interval:
    """Stands for a range of a parameter."""

    gt: Any = None
    ge: Any = None
    lt: Any = None
    le: Any = None


@dataclass(frozen=True)
class MultipleOf:
    """Stands for a condition on a parameter."""

    multiple_of: Any


stand_in("jaxtyping", **dict.fromkeys(("Bool", "Float", "Int", "Int64", "Integer", "Num", "UInt8"), Annotation))
stand_in("annotated_types", Interval=Interval, MultipleOf=MultipleOf)
stand_in("tqdm", tqdm=lambda items, **_: items)

from keyhole import models, rng  # noqa: E402
from keyhole.attacks import Attack  # noqa: E402
from keyhole.learning import training  # noqa: E402
from keyhole.learning.recipes import Recipe, resolve  # noqa: E402
from keyhole.learning.training import fit, latents, predict  # noqa: E402
from keyhole.parameters import rules  # noqa: E402
from keyhole.planning import registry  # noqa: E402
from keyhole.running.origin import commit  # noqa: E402
from keyhole.running.splits import draw_holdout, load  # noqa: E402
from keyhole.types import Evidence, Images, Labels, Poisoned, Recovered  # noqa: E402

RATE = 0.003  # of payload rows
ATTACKS = ("none", "badnets", "blended", "adap_blend", "adap_patch")
DEFENDED = ("badnets", "blended", "none")
MODEL = "resnet18"


# Every method, once, on tiny evidence

CLASSES, SIDE = 3, 12
SHORT: dict[str, dict[str, Any]] = {  # searches that would take long on a pretended GPU
    "confusion_training": {
        "ratios": (0.25,),
        "pretrain_epochs": (1, 1),
        "iterations": (5, 5),
        "learning_rates": (0.01, 0.01),
        "penalties": (20.0, 15.0),
    },
    "neural_cleanse": {"epochs": 2},
    "nc_unlearning": {"epochs": 1},
    "mm_bd": {"steps": 5, "starts": 4},
    "pixel": {"epochs": 2},
    "thtp": {"rounds": 1, "epochs": 1},
    "unicorn": {"epochs": 1, "warmup": 1},
    "feature_re": {"epochs": 1, "warmup": 1},
    "bti_dbf": {"mask_steps": 4, "invert_steps": 4, "starts": 2},
    "bti_dbf_u": {"mask_steps": 4, "invert_steps": 4, "starts": 2, "rounds": 1, "unlearn_steps": 4},
    "bti_dbf_p": {"mask_steps": 4, "invert_steps": 4, "starts": 2, "rounds": 1, "purify_steps": 4},
    "ban": {"mask_steps": 4},
}
BRIEF = Recipe(epochs=1, batch_size=32, optimizer="adamw", learning_rate=5e-3, weight_decay=0.01, schedule="linear")


def pictures(count: int, purpose: str, classes: int = CLASSES, side: int = SIDE) -> tuple[Images, Labels]:
    """Return noise with a bright row whose place is the class."""
    stream = rng.stream("gpu", purpose)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 160, (count, 3, side, side), generator=stream)
    images[torch.arange(count), :, labels] += 90
    return images.to(torch.uint8), labels


def tiny_evidence(device: torch.device) -> Evidence:
    """Return what a defender of a small random network has, on the device."""
    images, labels = (x.to(device) for x in pictures(90, "train"))
    held, held_labels = (x.to(device) for x in pictures(150, "holdout"))
    net = models.build("convnet", CLASSES, images.cpu(), rng.stream("net")).to(device).eval()
    stamped = held.clone()
    stamped[..., -3:, -3:] = 255
    found = latents(net, images, ("penultimate",))
    return Evidence(net, images, labels, found, held, held_labels, Recovered(stamped, 1, True))


def tries(device: torch.device) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield each model and method, `role/name`, with a call that tries it as a job does."""
    evidence = tiny_evidence(device)
    incoming = pictures(20, "incoming")[0].to(device)
    for name in sorted(path.stem for path in (ROOT / "src/keyhole/models").glob("[a-z]*.py")):
        yield f"models/{name}", lambda name=name: try_model(name, device)
    for name in registry.names("attacks"):
        yield f"attacks/{name}", lambda name=name: try_attack(name, device)
    defenses: dict[str, Callable[[Any], Any]] = {
        "detectors": lambda method: method.detect(evidence, rng.stream("try")).scores,
        "inverters": lambda method: try_inverter(method, evidence, incoming),
        "repairers": lambda method: method.repair(evidence, rng.stream("try"))(incoming),
        "filters": lambda method: method.screen(evidence, incoming, rng.stream("try")).scores,
        "purifiers": lambda method: method.purify(evidence, incoming, rng.stream("try")),
        "trainers": lambda method: method.train(
            evidence.copy(), evidence.images, evidence.labels, BRIEF, rng.stream("try")
        )(incoming),
    }
    for role, call in defenses.items():
        for name in registry.names(role):
            yield f"{role}/{name}", lambda role=role, name=name, call=call: try_defense(role, name, call, evidence)


def try_model(name: str, device: torch.device) -> None:
    """Run a model forwards and backwards."""
    images, labels = pictures(8, "model", side=32)
    net = models.build(name, CLASSES, images, rng.stream("net")).to(device)
    torch.nn.functional.cross_entropy(net(images.to(device)), labels.to(device)).backward()
    expect_finite(net.eval()(images.to(device)))


def try_attack(name: str, device: torch.device) -> None:
    """Craft, poison, train and trigger."""
    images, labels = pictures(200, "attack", 10, 32)
    known = rules(registry.method_class("attacks", name))
    attack = registry.load("attacks", name, {key: 1 for key in ("steps", "epochs") if key in known})
    net = models.build("convnet", 10, images, rng.stream("net")).to(device)
    if attack.crafted_from != "nothing":
        surrogate = net.eval() if attack.crafted_from == "surrogate" else None
        crafted = attack.craft(images.to(device), labels.to(device), surrogate, rng.stream("craft"))
        attack = attack.equipped({key: value.cpu() for key, value in crafted.items()})
    poisoned = attack.poison(images, labels, 0.05 * (name != "none"), rng.stream("poison"))
    if attack.controls == "training":
        learned = attack.train(net, images.to(device), labels.to(device), poisoned, BRIEF, rng.stream("train"))
        attack = attack.equipped({**attack.tensors, **{key: value.cpu() for key, value in learned.items()}})
        attack.materialize(images, labels, poisoned, rng.stream("materialize"))
    else:
        fit(net, *poisoned.apply(images, labels), BRIEF, rng.stream("train"))
    expect_finite(net(attack.apply_trigger(images[:8], rng.stream("trigger")).to(device)))


def try_inverter(method: Any, evidence: Evidence, incoming: Images) -> torch.Tensor:
    """Invert, and stamp what was found."""
    inversion = method.invert(evidence, rng.stream("try"))
    if inversion.stamp is not None:
        inversion.stamp(incoming, 1)
    return inversion.anomaly


def try_defense(role: str, name: str, call: Callable[[Any], torch.Tensor], evidence: Evidence) -> None:
    """Run a defense; its answer must be finite and on the device."""
    known = rules(registry.method_class(role, name))
    given = {key: value for key, value in SHORT.get(name, {}).items() if key in known}
    if name == "perfect_removal":
        given["assumed_payload"] = (0, 3)
    answer = call(registry.load(role, name, given))
    if answer.device.type != evidence.images.device.type:
        raise RuntimeError(f"expected an answer on {evidence.images.device}, got one on {answer.device}")
    expect_finite(answer.float())


def expect_finite(x: torch.Tensor) -> None:
    """Refuse numbers that are not finite."""
    if not bool(x.isfinite().all()):
        raise RuntimeError(f"expected finite numbers, got {x.flatten()[:5]}")


def outcome(call: Callable[[], None]) -> str:
    """Return `ok`, or the error in one line."""
    try:
        call()
    except Exception as error:  # whatever it is, the other methods are tried, too
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "ok"


# Victims


@dataclass(frozen=True)
class Bench:
    """What all steps share."""

    device: torch.device
    data: Path | None
    small: bool

    def splits(self) -> tuple[Images, Labels, Images, Labels]:
        """Return CIFAR-10, or random pictures."""
        if self.small:
            return *pictures(600, "train", 10, 32), *pictures(200, "test", 10, 32)
        found = load(registry.load("data", "cifar10"), self.data)
        return found.train_images, found.train_labels, found.test_images, found.test_labels

    def recipe(self, name: str, **changes: Any) -> Recipe:
        """Return a recipe, short if small."""
        less = {"epochs": 1, "batch_size": 64} if self.small else {}
        return resolve(name, "cifar10", True, {**changes, **less})

    def synchronize(self) -> None:
        """Wait until the device has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], Any]) -> tuple[float, Any]:
        """Return how long a call takes, and what it returns."""
        self.synchronize()
        start = time.perf_counter()
        found = call()
        self.synchronize()
        return round(time.perf_counter() - start, 3), found


@dataclass(frozen=True)
class Victim:
    """A trained network, what it was trained on, and what it answers."""

    attack: Attack
    evidence: Evidence
    poisoned: Poisoned
    test_images: Images
    test_labels: Labels

    def rates(self, net: torch.nn.Module | None = None) -> dict[str, float]:
        """Return CA, and ASR if there is a trigger."""
        net, device = net or self.evidence.net, self.evidence.images.device
        found = {"CA": share(predict(net, self.test_images.to(device)).cpu() == self.test_labels)}
        rows = torch.nonzero(self.attack.eligible(self.test_labels, 10)).squeeze(1)
        if len(rows):
            triggered = self.attack.apply_trigger(self.test_images[rows], rng.stream("trigger", "cifar10", 0))
            wanted = self.attack.relabel(self.test_labels[rows], 10)
            found["ASR"] = share(predict(net, triggered.to(device)).cpu() == wanted)
        return found


def share(hits: torch.Tensor) -> float:
    """Return a share with four digits."""
    return round(float(hits.double().mean()), 4)


def train_victim(bench: Bench, name: str, seed: int, recipe: Recipe) -> tuple[Victim, dict[str, Any]]:
    """Train a victim as the workflow does, with its streams."""
    images, labels, test_images, test_labels = bench.splits()
    held, rest = draw_holdout(labels, "train", len(labels) // 20, rng.stream("holdout", "cifar10", seed))
    holdout, (images, labels) = (images[held], labels[held]), (images[rest], labels[rest])
    stream = rng.stream("train", "cifar10", MODEL, seed)
    net = models.build(MODEL, 10, images, stream).to(bench.device)
    attack = registry.load("attacks", name)
    rate = 0 if name == "none" else 0.02 if bench.small else RATE
    poisoned = attack.poison(images, labels, rate, rng.stream("poison", "cifar10", seed))
    received = tuple(x.to(bench.device) for x in poisoned.apply(images, labels))
    seconds, _ = bench.seconds(lambda: fit(net, *received, recipe, stream))
    on_device = tuple(x.to(bench.device) for x in holdout)
    victim = Victim(attack, Evidence(net, *received, {}, *on_device), poisoned, test_images, test_labels)
    facts = {"attack": name, "seed": seed, "epochs": recipe.epochs, "train_seconds": seconds, **victim.rates()}
    return victim, facts


def step_machine(bench: Bench) -> dict[str, Any]:
    """Say what computes."""
    found = {
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(bench.device),
    }
    if bench.device.type == "cuda":
        properties = torch.cuda.get_device_properties(bench.device)
        found |= {
            "gpu": properties.name,
            "memory_gib": round(properties.total_memory / 2**30),
            "cuda": torch.version.cuda,
        }
    return found


def step_replay(bench: Bench) -> dict[str, Any]:
    """Compare training that replays its passes with training that does not: gradients, and the seconds of a step."""
    images, labels = (x.to(bench.device) for x in pictures(64 if bench.small else 5120, "replay", 10, 32))
    recipe = bench.recipe("fast", epochs=2, precision="float32")
    found: dict[str, Any] = {"graphs": bench.device.type == "cuda"}
    nets = []
    for name, steps in (("plain", 2**30), ("replayed", 1)):
        net = models.build(MODEL, 10, images.cpu(), rng.stream("net")).to(bench.device)
        gradients = []
        with patched(training, "WORTH_RECORDING", steps):
            loop = training.Loop(net, images, labels, recipe, rng.stream("loop"))
            with loop.replayed():
                for k, (x, y) in enumerate(loop):
                    torch.nn.functional.cross_entropy(net(x), y).backward()
                    gradients += [p.grad.clone() for p in net.parameters() if p.grad is not None]
                    net.zero_grad(set_to_none=True)
                    if k == 2:
                        break
            timed = bench.recipe("fast", epochs=10)
            net = models.build(MODEL, 10, images.cpu(), rng.stream("net")).to(bench.device)
            if not bench.small:
                fit(net, images[:2560], labels[:2560], timed, rng.stream("loop"))
            seconds, _ = bench.seconds(lambda net=net, timed=timed: fit(net, images, labels, timed, rng.stream("loop")))
        found[f"{name}_ms_per_step"] = round(1e3 * seconds / (timed.epochs * (len(images) // timed.batch_size)), 2)
        nets.append(torch.cat([g.flatten() for g in gradients]))
    found["gradients_differ_by"] = float((nets[1] - nets[0]).norm() / nets[0].norm())
    if found["gradients_differ_by"] > 0.01:  # more than TF32 rounds; then the other steps do without
        training.WORTH_RECORDING = 2**30
    return found


@contextmanager
def patched(module: Any, name: str, value: Any) -> Iterator[None]:
    """Give a module's variable another value inside."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def step_methods(bench: Bench) -> dict[str, Any]:
    """Try every model and every method."""
    found, seconds = {}, {}
    for name, call in tries(bench.device):
        seconds[name], found[name] = bench.seconds(lambda call=call: outcome(call))
        print(f"  {name}: {found[name]}", file=sys.stderr, flush=True)
    failed = {name: answer for name, answer in found.items() if answer != "ok"}
    return {"tried": len(found), "failed": failed, "seconds_each": seconds}


VICTIMS: dict[str, Victim] = {}  # those of this run, for the steps that defend them


def victim_of(bench: Bench, name: str) -> tuple[Victim, dict[str, Any]]:
    """Return a victim of this run and, if it is new, its numbers."""
    if name not in VICTIMS:
        VICTIMS[name], facts = train_victim(bench, name, 0, bench.recipe("fast"))
        return VICTIMS[name], facts
    return VICTIMS[name], {}


def step_side_by_side(bench: Bench) -> dict[str, Any]:
    """Train two seeds at the same time, each in its own process."""
    command = [sys.executable, __file__, "--device", bench.device.type]
    command += ["--small"] if bench.small else ["--data", str(bench.data)]
    start = time.perf_counter()
    runs = [
        subprocess.Popen([*command, "--one", "none", str(seed)], stdout=subprocess.PIPE, text=True) for seed in (1, 2)
    ]
    lines = [run.communicate()[0].strip().splitlines() for run in runs]
    return {"wall_seconds": round(time.perf_counter() - start, 1), "runs": [json.loads(each[-1]) for each in lines]}


def step_paper(bench: Bench) -> dict[str, Any]:
    """Train one epoch and then three with the recipe `paper`; the difference gives the seconds of all epochs."""
    took = [
        train_victim(bench, "none", 0, bench.recipe("paper", epochs=epochs, milestones=()))[1]["train_seconds"]
        for epochs in (1, 3)
    ]
    epoch = (took[1] - took[0]) / 2
    epochs = resolve("paper", "cifar10", True).epochs
    return {"seconds_per_epoch": round(epoch, 3), "epochs": epochs, "seconds_expected": round(epoch * epochs, 1)}


def step_detectors(bench: Bench, name: str) -> dict[str, Any]:
    """Run all detectors that read latents."""
    victim, _ = victim_of(bench, name)
    evidence = victim.evidence
    seconds, found = bench.seconds(lambda: latents(evidence.net, evidence.images, ("penultimate",)))
    evidence = replace(evidence, latents=found)
    truth = torch.zeros(len(evidence.labels), dtype=torch.bool)
    truth[victim.poisoned.index[~victim.poisoned.is_cover]] = True
    answers: dict[str, Any] = {"latents_seconds": seconds}
    for detector in registry.names("detectors"):
        if "level" in rules(registry.method_class("detectors", detector)):
            method = registry.load("detectors", detector)
            answers[detector] = measured(bench, lambda method=method: judge(method, evidence, truth))
    return answers


def measured(bench: Bench, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a call says and how long it takes, or why it failed."""
    try:
        seconds, found = bench.seconds(call)
    except Exception as error:  # costs its own line
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {**found, "seconds": seconds}


def judge(method: Any, evidence: Evidence, truth: torch.Tensor) -> dict[str, Any]:
    """Return how well a detector finds the payload."""
    suspicion = method.detect(evidence, rng.stream("detect", "cifar10", 0, "gpu"))
    flagged, scores = suspicion.flagged.cpu(), suspicion.scores.double().cpu()
    ranks = torch.empty(len(scores), dtype=torch.float64)
    ranks[scores.argsort()] = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    p, n = int(truth.sum()), int((~truth).sum())
    area = (float(ranks[truth].sum()) - p * (p + 1) / 2) / (p * n) if p else None  # ties are broken by the order
    return {
        "TPR": share(flagged[truth]) if p else None,
        "FPR": share(flagged[~truth]),
        "AUROC": area and round(area, 4),
    }


def step_defenses(bench: Bench, name: str) -> dict[str, Any]:
    """Run BTI-DBF and I-BAU at their defaults, and Neural Cleanse for fewer epochs."""
    victim, _ = victim_of(bench, name)
    evidence = replace(victim.evidence, images=victim.evidence.images[:0], labels=victim.evidence.labels[:0])
    short = {name: SHORT.get(name, {}) if bench.small else {} for name in ("bti_dbf", "neural_cleanse")}
    short["neural_cleanse"] = short["neural_cleanse"] or {"epochs": 10}

    def invert(inverter: str) -> dict[str, Any]:
        method = registry.load("inverters", inverter, short[inverter])
        inversion = method.invert(evidence, rng.stream("invert", "cifar10", 0, inverter))
        anomaly = inversion.anomaly.cpu()
        flagged = torch.nonzero(inversion.flagged.cpu()).flatten().tolist()
        return {
            "named": int(anomaly.argmax()),
            "flagged": flagged,
            "anomaly": round(float(anomaly.max()), 3),
            **short[inverter],
        }

    def repair() -> dict[str, Any]:
        method = registry.load("repairers", "i_bau", {"rounds": 1} if bench.small else {})
        return victim.rates(method.repair(evidence, rng.stream("repair", "cifar10", 0, "i_bau")))

    return {
        "bti_dbf": measured(bench, lambda: invert("bti_dbf")),
        "i_bau": measured(bench, repair),
        "neural_cleanse": measured(bench, lambda: invert("neural_cleanse")),
    }


def steps() -> dict[str, tuple[Callable[[Bench], dict[str, Any]], int]]:
    """Return step -> its function, and the seconds for which it is not begun if they are not left."""
    found: dict[str, tuple[Callable[[Bench], dict[str, Any]], int]] = {"machine": (step_machine, 0)}
    found["replay"] = (step_replay, 30)
    for name in ATTACKS:
        found[f"victim {name}"] = (lambda bench, name=name: victim_of(bench, name)[1], 45)
    for name in ATTACKS[1:]:
        found[f"detectors {name}"] = (lambda bench, name=name: step_detectors(bench, name), 20)
    for name in DEFENDED:
        found[f"defenses {name}"] = (lambda bench, name=name: step_defenses(bench, name), 40)
    found["side by side"] = (step_side_by_side, 70)
    found["paper"] = (step_paper, 30)
    found["methods"] = (step_methods, 60)
    return found


def run(bench: Bench, out: Path, minutes: float, only: list[str]) -> None:
    """Run the steps that are not in the file yet, as long as there is time."""
    start = time.perf_counter()
    report: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    report["left out"] = []
    for name, (function, needed) in steps().items():
        done = name in report and "error" not in report[name]
        if done or (only and name.split()[0] not in only):
            continue
        if time.perf_counter() - start + (0 if bench.small else needed) > 60 * minutes:
            report["left out"].append(name)
            continue
        print(name, file=sys.stderr, flush=True)
        found = measured(bench, lambda function=function: function(bench))
        if found.keys() - {"seconds"}:  # a victim that was trained for an earlier step says nothing
            report[name] = found
        out.write_text(json.dumps(report, indent=1) + "\n")
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10.npz (default: KEYHOLE_DATA)")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--small", action="store_true", help="random pictures and short searches, to rehearse")
    parser.add_argument("--only", nargs="*", default=[], help="first words of the steps to run")
    parser.add_argument("--one", nargs=2, metavar=("ATTACK", "SEED"), help="train one victim and print its numbers")
    given = parser.parse_args()
    with device_named(given.device) as device:
        bench = Bench(device, given.data, given.small)
        if given.one:
            print(json.dumps(train_victim(bench, given.one[0], int(given.one[1]), bench.recipe("fast"))[1]))
        else:
            run(bench, given.out, given.minutes, given.only)


def device_named(name: str) -> AbstractContextManager[torch.device]:
    """Return a context with the device: one of torch's, or the pretended GPU of the tests."""
    torch.backends.cudnn.allow_tf32 = False  # as in jobs
    if name != "pretend":
        return nullcontext(torch.device(name))
    sys.path.insert(0, str(ROOT))
    from tests import pretended_gpu

    return pretended_gpu.installed()


if __name__ == "__main__":
    main()
