"""Weak semantic noise: perturbed text features of the frozen CLIP, and noise prompts clustered from them.

Two sentence banks describe every class: a *base* and a *perturbation*. One sentence of each is drawn per run, the same
index for all classes; the weak-noise feature of a class is the base feature plus a small multiple of the perturbation.
Cluster centres of these features are the noise prompts. ``docs/method.md`` says what of this the paper states and what
is reconstructed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

from anprompt.prompts.descriptions import read_descriptions
from anprompt.prompts.templates import class_text, paraphrases_for

logger = logging.getLogger(__name__)

KMEANS_SEED = 0  # fixed: what varies between runs is the drawn sentences, not the clustering
KMEANS_RESTARTS = 10

Bank = list[list[str]]  # [M][C]: sentence m of class c


@dataclass(frozen=True)
class NoiseBanks:
    """Sentences to draw weak noise from.

    Attributes:
        base, perturbation: ``[M][C]`` sentence banks; the same object where one source plays both roles.
        source: where they come from, for the log.
    """

    base: Bank
    perturbation: Bank
    source: str

    @property
    def digest(self) -> str:
        """sha256 of all sentences: two runs had the same to draw from or not."""
        return hashlib.sha256(json.dumps([self.base, self.perturbation]).encode()).hexdigest()

    def draw(self, rng: random.Random) -> tuple[int, int]:
        """Indices of one base and one perturbing sentence, shared by all classes; distinct within one bank."""
        base = rng.randrange(len(self.base))
        if self.perturbation is not self.base:
            return base, rng.randrange(len(self.perturbation))
        others = [index for index in range(len(self.base)) if index != base]
        return base, rng.choice(others or [base])


def noise_banks(dataset: str, classnames: Sequence[str], gpt_dir: str = "", hpt_dir: str = "") -> NoiseBanks:
    """Find the sentences of every class.

    With both directories CoPrompt's sentences are the base and HPT's the perturbation, as in the authors' early
    release. With one of them it plays both roles, with two different sentences. With none, the built-in paraphrases
    of the dataset's template do.

    Args:
        dataset: registry name, as in ``DATASET.NAME``.
        gpt_dir: folder with CoPrompt's ``<key>_prompt.json`` files, or empty.
        hpt_dir: folder with HPT's ``<Dataset>.json`` files, or empty.

    Raises:
        FileNotFoundError, ValueError: a named folder lacks the dataset's file, or the file lacks a class.
    """
    named = [(kind, folder) for kind, folder in (("GPT", gpt_dir), ("HPT", hpt_dir)) if folder]
    if not named:
        bank = [[wording.format(class_text(name)) for name in classnames] for wording in paraphrases_for(dataset)]
        return NoiseBanks(bank, bank, f"built-in paraphrases ({len(bank)} wordings) as source and as perturbation")
    banks = [read_descriptions(folder, dataset, classnames) for _, folder in named]
    texts = [f"{kind} descriptions ({len(bank)} per class)" for (kind, _), bank in zip(named, banks, strict=True)]
    if len(banks) == 1:
        return NoiseBanks(banks[0], banks[0], f"{texts[0]} as source and as perturbation")
    return NoiseBanks(banks[0], banks[1], f"{texts[0]} as source, {texts[1]} as perturbation")


def weak_noise_features(base: Tensor, perturbation: Tensor, strength: float) -> Tensor:
    """``normalise(base + strength * perturbation)`` of unit features ``[C, E]``."""
    return F.normalize(base + strength * perturbation, dim=-1)


def noise_prompts(features: Tensor, count: int, all_features: Callable[[], Tensor]) -> Tensor:
    """Cluster the weak-noise features into noise prompts.

    Args:
        features: ``[C, E]`` weak-noise features of the training classes.
        count: number of noise prompts, K.
        all_features: encodes every sentence of the base bank, ``[M * C, E]``; called only where there are fewer
            distinct class features than clusters.

    Returns:
        ``[K, E]`` cluster centres without gradient, on the device and with the dtype of ``features``.

    Raises:
        ValueError: even all sentences are fewer than the clusters.
    """
    distinct = count_distinct(features)
    if distinct < count:
        logger.info("%d class features for %d noise prompts: clustering all description features", distinct, count)
        features = all_features()
    return cluster_centres(features, count)


def count_distinct(features: Tensor) -> int:
    return len(features.unique(dim=0))


def cluster_centres(features: Tensor, count: int, seed: int = KMEANS_SEED) -> Tensor:
    """K-means centres ``[count, E]`` of ``features`` ``[N, E]``, largest cluster first.

    Centres are not normalised. Ties in size are broken by the centres' coordinates, so that equal inputs give equal
    rows: they are added to the learnable tokens row by row.
    """
    points = features.detach().cpu().double().numpy()
    distinct = count_distinct(features)
    if distinct < count:
        raise ValueError(
            f"cannot form {count} noise prompts: k-means needs at least {count} distinct features and there are "
            f"{distinct}. Lower TRAINER.ANPROMPT.N_TOKENS to {distinct} or give description files with more sentences "
            "per class (TRAINER.ANPROMPT.NOISE.GPT_DIR / HPT_DIR)."
        )
    from sklearn.cluster import KMeans  # takes a second, which other runs need not wait

    kmeans = KMeans(count, init="k-means++", n_init=KMEANS_RESTARTS, max_iter=300, random_state=seed)
    with threadpool_limits(limits=1):  # threads would add partial sums in varying order
        labels = kmeans.fit_predict(points)
    sizes = np.bincount(labels, minlength=count)
    centres = kmeans.cluster_centers_
    order = sorted(range(count), key=lambda index: (-sizes[index], *centres[index]))
    return torch.from_numpy(centres[order]).to(device=features.device, dtype=features.dtype)
