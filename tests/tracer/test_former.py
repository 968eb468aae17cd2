"""Former names of arguments are taken, and told."""

import pytest

from tracer.former import renamed


@renamed(anyway="force", width="size")
def made(path: str, size: int = 1, *, force: bool = False) -> tuple[str, int, bool]:
    """Of it."""
    return path, size, force


def test_present_names_say_nothing() -> None:
    assert made("a", 2, force=True) == ("a", 2, True)
    assert made.__doc__ == "Of it." and made.__name__ == "made"


def test_a_former_name_is_the_present_one() -> None:
    with pytest.warns(DeprecationWarning, match=r"made\(anyway=...\) is now force=") as told:
        assert made("a", anyway=True) == ("a", 1, True)  # type: ignore[call-arg]
    assert told[0].filename == __file__
    with pytest.warns(DeprecationWarning) as told:
        assert made("a", anyway=True, width=3) == ("a", 3, True)  # type: ignore[call-arg]
    assert len(told) == 2


def test_both_names_are_one_too_many() -> None:
    with pytest.raises(TypeError, match="anyway and force, which are one"):
        made("a", force=True, anyway=False)  # type: ignore[call-arg]
