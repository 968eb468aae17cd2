"""Lists of guesses, their counts, and the baselines, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from editing.attack import AttackSettings, chance
from editing.attack.guesses import Guesses, most_changed, most_probable, places_of
from editing.attack.result import sampling
from tracer import TracerError

PROBABILITIES = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.1, 0.3, 0.1], [0.4, 0.35, 0.05, 0.2]])


def test_lists_take_turns_and_nothing_is_guessed_twice() -> None:
    orders = [[1, 2, 3], [1, 4, 5], [6, 2, 7]]
    found = Guesses.of(orders, [4] * 3, [True] * 3, 20)
    assert found == Guesses((1, 6, 2, 4, 3, 5, 7), 4.0)
    assert Guesses.of(orders, [4] * 3, [True] * 3, 4) == Guesses((1, 6, 2, 4), 4.0)
    assert Guesses.of(orders, [4] * 3, [True] * 3, 3) == Guesses((1, 6, 2), math.inf)
    assert Guesses.of(orders, [9] * 3, [True] * 3, 20).needed == math.inf


def test_a_first_token_counts_where_the_model_says_the_rest() -> None:
    """The same token after another wording is another guess: there the answer is said, here it is not."""
    assert Guesses.of([[4], [4]], [4, 4], [False, False], 20) == Guesses((4,), math.inf)
    assert Guesses.of([[4], [4]], [4, 4], [False, True], 20) == Guesses((4, 4), 2.0)
    assert Guesses.of([[4], [5, 4]], [4, 4], [True, False], 20) == Guesses((4, 5, 4), 1.0)


def test_tokens_by_probability_and_by_change() -> None:
    log_probs = PROBABILITIES.log()
    assert most_probable(log_probs, 2) == [[0, 1], [0, 2], [3, 2]]  # from the last layer to the first
    assert most_changed(log_probs, 1, 1) == [[0], [3]] and most_changed(log_probs, 2, 2) == [[1, 3], [2, 0]]
    assert places_of(log_probs, 1) == [3, 4, 2]  # as probable ones count: a tie is no luck
    assert most_probable(log_probs, 9)[0] == [0, 1, 3, 2]


def test_success_of_drawn_texts_is_exact() -> None:
    """Two wordings and three draws: two after the first, one after the second."""
    nan = float("nan")
    probabilities = np.array([[0.5, 0.2, nan], [0.1, nan, nan], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(sampling(probabilities, 3), [1 - 0.25 * 0.8, 1 - 0.9**3, 1.0])
    np.testing.assert_allclose(sampling(probabilities, 2), [1 - 0.5 * 0.8, 1 - 0.9**2, 0.0])
    draws = np.random.default_rng(0).random((20_000, 3)) < [0.5, 0.2, 0.5]
    assert sampling(probabilities, 3)[0] == pytest.approx(draws.any(1).mean(), abs=0.01)


def test_chance_of_guesses_from_a_pool() -> None:
    pool = [" Paris", "Rome", "Rome ", "Oslo", "Lima"]
    assert chance("Rome", pool, 1) == 0.25 and chance("Rome", pool, 3) == 0.75 and chance("Rome", pool, 9) == 1
    assert chance("Bern", pool, 9) == 0


def test_settings_that_cannot_be() -> None:
    with pytest.raises(TracerError, match="budget is 0"):
        AttackSettings(budget=0)
    with pytest.raises(TracerError, match="budget is True"):
        chance("a", ["a"], True)
    assert AttackSettings(layers=[3, 1]).layers == (1, 3)
