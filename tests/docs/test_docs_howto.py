"""How-to pages: their code runs and prints what they say."""

from __future__ import annotations

import docpages
import pytest


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("page", [page for page in docpages.that_run() if page.startswith("howto/")])
def test_blocks_run_and_print_what_the_page_says(page: str) -> None:
    assert docpages.wrong(page) == ""
