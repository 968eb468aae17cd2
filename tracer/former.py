"""Former names of arguments, which are taken for a release and told."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator of a function some of whose arguments had another name.

    Args:
        names: the present name by each former one, as in `@renamed(anyway="force")`.

    Raises:
        TypeError: by the decorated function, if it is called with both names.
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in names.items():
                if old in kwargs:
                    if new in kwargs:
                        raise TypeError(f"{function.__qualname__}() got {old} and {new}, which are one; give {new}")
                    said = f"{function.__qualname__}({old}=...) is now {new}=; the former name will go"
                    warnings.warn(said, DeprecationWarning, stacklevel=2)
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return called

    return decorated
