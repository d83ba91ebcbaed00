"""A run's own generators: apart from one another, repeatable, and continued."""

import torch

from anprompt.utils.rng import NamedGenerators


def draw(generators, name, count=3):
    return torch.rand(count, generator=generators[name]).tolist()


def test_generators_differ_by_name_and_seed():
    assert draw(NamedGenerators(0), "a") == draw(NamedGenerators(0), "a")
    assert draw(NamedGenerators(0), "a") != draw(NamedGenerators(0), "b") != draw(NamedGenerators(1), "b")


def test_without_a_seed_nothing_repeats():
    assert draw(NamedGenerators(-1), "a") != draw(NamedGenerators(-1), "a")


def test_one_generator_neither_moves_another_nor_the_global_one():
    torch.manual_seed(3)
    expected, generators = torch.rand(2).tolist(), NamedGenerators(0)
    torch.manual_seed(3)
    draw(generators, "a", 5)
    assert torch.rand(2).tolist() == expected
    assert draw(generators, "b") == draw(NamedGenerators(0), "b")


def test_draws_go_on_whether_the_name_was_asked_for_before_or_after():
    generators = NamedGenerators(0)
    draw(generators, "a"), draw(generators, "b")
    state = generators.state()
    expected = draw(generators, "a"), draw(generators, "b")
    other = NamedGenerators(0)
    held = other["a"]  # somebody keeps the object
    other.restore(state)
    assert other["a"] is held
    assert set(other.state()) == {"a", "b"}  # even before anybody asks for b
    assert (draw(other, "a"), draw(other, "b")) == expected
