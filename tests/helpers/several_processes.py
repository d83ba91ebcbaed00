"""What several processes do for tests/utils/test_distributed.py, and one: each method's loss and gradients.

Run by :func:`together` as ``python -m tests.helpers.several_processes FOLDER``.
"""

import os
import random
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from anprompt.utils import distributed
from tests.conftest import small_clip
from tests.helpers import REPOSITORY
from tests.trainers.test_peer_models import NAMES, bare_trainer
from trainers import cocoop
from trainers.anprompt import ANPrompt
from trainers.cocoop import CoCoOp
from trainers.coop import CoOp
from trainers.e2mim import E2MIM
from trainers.ga2clip import GA2CLIP
from trainers.kgcoop import KgCoOp
from trainers.maple import MaPLe
from trainers.mmrl import MMRL
from trainers.mmrlpp import MMRLpp
from trainers.promptsrc import PromptSRC
from trainers.zsclip import ZeroshotCLIP

PROCESSES = 3
# The last process gets a part of its own and a repeated row; a repeated row alone; so does every process.
BATCHES = (5, 4, 1)
METHODS = {
    "ANPrompt": (ANPrompt, ("LAYERS", [3, 4])),
    "ANPrompt, early release": (
        ANPrompt,
        ("LAYERS", [3, 4], "NOISE_PROMPT.SOURCE", "learnable", "VISION_ALIGNER", "linear", "PROTOTYPE_PROJ", "full"),
    ),
    "MMRL": (MMRL, ("REP_LAYERS", [3, 4])),
    "MMRLpp": (MMRLpp, ("REP_LAYERS", [3, 4])),
    "MaPLe": (MaPLe, ("PROMPT_DEPTH", 3)),
    "PromptSRC": (PromptSRC, ("PROMPT_DEPTH_TEXT", 3, "PROMPT_DEPTH_VISION", 3)),
    "CoOp": (CoOp, ("N_CTX", 3)),
    "CoOp, one context per class": (CoOp, ("N_CTX", 3, "CSC", True)),
    "CoCoOp": (CoCoOp, ()),
    "GA2CLIP": (GA2CLIP, ("PROMPT_DEPTH_TEXT", 3, "PROMPT_DEPTH_VISION", 3)),
    "KgCoOp": (KgCoOp, ()),
    "E2MIM": (E2MIM, ()),
    "E2MIM, a critic that learns": (E2MIM, ("MI.CRITIC", "separable", "MI.ESTIMATOR", "dv")),
}


def noise(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 24, dtype=torch.float64, generator=generator), dim=-1)


def build(kind, options):
    """A trainer on the small CLIP, with what ``before_train`` would have prepared."""
    trainer = bare_trainer(kind, small_clip(), *options)
    trainer.weak_noise = trainer.frozen_text = trainer.hand_written = noise(len(NAMES), 3)
    if kind is ANPrompt and trainer.values.NOISE_PROMPT.SOURCE == "cluster":
        trainer.model.learner.noise_prompts.copy_(0.3 * noise(5, 4))
    return trainer


def batch(size):
    generator = torch.Generator().manual_seed(size)
    images = torch.randn(size, 3, 32, 32, dtype=torch.float64, generator=generator)
    return {"images": images, "labels": torch.randint(len(NAMES), (size,), generator=generator)}


@contextmanager
def encoded_rows(trainer):
    """The numbers of images that the vision tower is given inside."""
    rows = []
    hook = trainer.model.clip.visual.conv1.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    yield rows
    hook.remove()


def steps(kind, options):
    """Terms, logits, gradients and heads of every batch, and how many images were encoded."""
    trainer, results = build(kind, options), {}
    objective = distributed.averaged(trainer.loss_terms, trainer.model.learner)
    for size in BATCHES:
        trainer.model.learner.zero_grad()
        with encoded_rows(trainer) as rows:
            terms, logits = objective(batch(size))
        sum(terms.values()).backward()
        gradients = {name: parameter.grad.clone() for name, parameter in trainer.model.learner.named_parameters()}
        with torch.no_grad():
            heads = trainer.model.head_logits(batch(size)["images"])
        numbers = {"terms": terms, "gradients": gradients, "heads": heads, "logits": {"": logits}}
        flat = {f"{part} {name}": tensor.detach() for part, group in numbers.items() for name, tensor in group.items()}
        results[size] = {"numbers": flat, "rows": rows}
    return results


def contexts_per_process():
    """For how many images of the first batch CoCoOp's text tower runs."""
    trainer, counts = build(CoCoOp, ()), []
    encode = trainer.model.encode_chunk
    trainer.model.encode_chunk = lambda contexts: (counts.append(len(contexts)), encode(contexts))[1]
    trainer.model(batch(BATCHES[0])["images"])
    return sum(counts)


def zero_shot():
    trainer = build(ZeroshotCLIP, ())
    return {size: trainer.model.head_logits(batch(size)["images"])["class"] for size in BATCHES}


def everything():
    cocoop.REDUCTION = 4  # the small CLIP would get a meta-net of one hidden number
    return {name: steps(*method) for name, method in METHODS.items()}, zero_shot()


def outcome(act):
    try:
        return act()
    except (ValueError, SystemExit) as error:
        return f"{type(error).__name__}: {error}"


def fail():
    raise ValueError(f"process {distributed.rank()}")


def one_after_the_other(folder):
    """What a few-shot subset is to a run: the first process draws it, the others find it."""
    subset, seen = folder / "subset", []

    def prepare():
        seen.append(subset.exists())
        if not subset.exists():
            subset.write_text(str(random.random()))

    random.seed(1)
    distributed.main_first(prepare)
    return {"seen": seen, "next": random.random()}


def main(folder):
    distributed.start()
    distributed.start()  # a second run of the process
    report = {
        "everything": everything(),
        "contexts": contexts_per_process(),
        "decided": distributed.from_main(lambda: f"process {distributed.rank()}"),
        "failed": outcome(lambda: distributed.from_main(fail)),
        "data": one_after_the_other(folder),
        "silent": sys.stdout.name == os.devnull,
    }
    torch.save(report, folder / f"{distributed.rank()}.pt")
    distributed.end()


def together(folder):
    """Run :func:`main` in several processes; their reports."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(PROCESSES), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.several_processes", str(folder)],
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=REPOSITORY,
        )
        for rank in range(PROCESSES)
    ]
    try:
        assert [process.wait(300) for process in processes] == [0] * PROCESSES
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
