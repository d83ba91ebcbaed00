"""Weak-noise features and noise prompts."""

import json
import random

import numpy as np
import pytest
import torch

from anprompt.prompts.noise import NoiseBanks, cluster_centres, noise_banks, noise_prompts, weak_noise_features


def unit_points(count, width=8, seed=0):
    points = torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(points, dim=-1)


@pytest.mark.parametrize(
    ("strength", "expected"), [(0.001, (0.99999968, 0.00079952)), (0.5, (0.955779, 0.294086)), (0.0, (1.0, 0.0))]
)
def test_weak_noise_values(strength, expected):
    g, h = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    assert weak_noise_features(g, h, strength)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_centres_of_two_pairs():
    points = torch.tensor([[1.0, 0.0], [0.98, 0.199], [0.0, 1.0], [0.199, 0.98]], dtype=torch.float64)
    centres = cluster_centres(points, 2)
    # Equal sizes: the smaller first coordinate comes first. Centres are not normalised.
    assert torch.allclose(centres, torch.tensor([[0.0995, 0.99], [0.99, 0.0995]], dtype=torch.float64), atol=1e-9)
    assert centres.norm(dim=1).tolist() == pytest.approx([0.995, 0.995], abs=1e-3)


def test_largest_cluster_comes_first():
    points = torch.cat([unit_points(1, seed=3), unit_points(1, seed=4) + 1e-3 * unit_points(5, seed=5)])
    centres = cluster_centres(points, 2)
    assert torch.allclose(centres[0], points[1:].mean(0))
    assert torch.allclose(centres[1], points[0])


def test_same_features_give_identical_centres():
    points = unit_points(600)
    assert torch.equal(cluster_centres(points, 5), cluster_centres(points.clone(), 5))


def test_as_many_classes_as_clusters_gives_the_features_themselves():
    points = unit_points(5)
    centres = cluster_centres(points, 5)
    distances = torch.cdist(centres, points)
    assert distances.min(dim=1).values.max() < 1e-7
    assert sorted(distances.argmin(dim=1).tolist()) == [0, 1, 2, 3, 4]


def test_fewer_classes_than_clusters_falls_back_to_all_descriptions():
    features, everything = unit_points(3), unit_points(40, seed=1)
    centres = noise_prompts(features, 5, lambda: everything)
    assert torch.equal(centres, cluster_centres(everything, 5))


def test_repeated_class_features_fall_back_too():
    features, everything = unit_points(3).repeat(4, 1), unit_points(40, seed=1)
    assert torch.equal(noise_prompts(features, 5, lambda: everything), cluster_centres(everything, 5))


def test_all_descriptions_are_not_encoded_without_need():
    def forbidden():
        raise AssertionError("encoded all descriptions although there are enough classes")

    assert noise_prompts(unit_points(6), 5, forbidden).shape == (5, 8)


def test_more_clusters_than_features_is_one_clear_error():
    with pytest.raises(ValueError, match=r"cannot form 5 noise prompts.*there are 2.*Lower TRAINER.ANPROMPT.N_TOKENS"):
        noise_prompts(unit_points(2), 5, lambda: unit_points(2))


def test_repeated_features_count_once():
    with pytest.raises(ValueError, match="there are 2"):
        cluster_centres(unit_points(2).repeat(5, 1), 3)


def test_centres_carry_no_gradient_and_no_global_randomness():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    centres = cluster_centres(unit_points(20).requires_grad_(), 4)
    assert not centres.requires_grad
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_built_in_paraphrases_serve_without_files():
    banks = noise_banks("Caltech101", ["face", "water_lilly"])
    assert len(banks.base) >= 24 and banks.base is banks.perturbation
    assert "built-in paraphrases" in banks.source
    assert all("water lilly" in sentences[1] for sentences in banks.base)


def write(folder, name, content):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return str(folder)


def test_two_files_are_source_and_perturbation(tmp_path):
    gpt = write(tmp_path / "gpt", "dtd_prompt.json", {"dotted": ["g0", "g1"], "lined": ["g2", "g3"]})
    hpt = write(tmp_path / "hpt", "DescribableTextures.json", {"dotted": ["h0"] * 5, "lined": ["h1"] * 5})
    banks = noise_banks("DescribableTextures", ["dotted", "lined"], gpt, hpt)
    assert banks.base == [["g0", "g2"], ["g1", "g3"]]
    assert banks.perturbation[0] == ["h0", "h1"]
    assert "GPT" in banks.source and "HPT" in banks.source


def test_one_file_plays_both_roles(tmp_path):
    hpt = write(tmp_path / "hpt", "DescribableTextures.json", {"dotted": list("abcde"), "lined": list("fghij")})
    banks = noise_banks("DescribableTextures", ["dotted", "lined"], "", hpt)
    assert banks.base is banks.perturbation and "HPT descriptions (5 per class) as source and" in banks.source


def test_drawn_sentences_differ_within_one_bank_and_depend_on_the_generator_only():
    bank = [[str(m)] for m in range(24)]
    banks = NoiseBanks(bank, bank, "test")
    draws = [banks.draw(random.Random(seed)) for seed in range(200)]
    assert all(base != perturbation for base, perturbation in draws)
    assert len(set(draws)) > 100
    assert draws == [banks.draw(random.Random(seed)) for seed in range(200)]
