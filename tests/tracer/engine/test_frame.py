"""What a frame says of rows and columns: padding on either side, tokens in a cache, a batch that grows."""

from __future__ import annotations

from tracer.engine import Frame


def test_places_are_counted_from_the_end_of_each_rows_prompt() -> None:
    """Prompts of 2 and 3 tokens, with an answer of one token behind each."""
    prompts = Frame(3, (0, 0), (1, 2), (2, 3), {"m": ("first", None)})
    right = prompts.at(4, lengths=(3, 4))  # filled up behind the shorter one
    assert right.since(2).tolist() == [[-1, 0, 1, 2], [-2, -1, 0, 1]]
    assert right.real(2).tolist() == [[True, True, True, False], [True] * 4]
    left = prompts.at(4, starts=(-1, 0), lengths=(3, 4))
    assert left.since(2).tolist() == [[-2, -1, 0, 1], [-2, -1, 0, 1]]
    assert left.real(2).tolist() == [[False, True, True, True], [True] * 4]
    cached = prompts.at(1, starts=(3, 4))  # both go on, by a second token of their answers
    assert cached.since(2).tolist() == [[2], [2]] and cached.real(2).all()


def test_a_larger_batch_has_the_rows_again_and_a_smaller_one_the_first() -> None:
    frame = Frame(2, (0, 1), (0, 1), (2, 3), {"m": ("a", "b")})
    assert frame.rows(4) == [0, 1, 0, 1] and frame.rows(1) == [0]
    assert frame.since(4).tolist() == [[0, 1], [0, 1]] * 2
    other = frame.select([1, 1, 0])
    assert (other.starts, other.ends, other.decided) == ((1, 1, 0), (1, 1, 0), {"m": ("b", "b", "a")})
