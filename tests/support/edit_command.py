"""What the tests of the command share: a fact, and records of a batch."""

from __future__ import annotations

from typing import Any

from editing.request import EditRequest

PROMPT, SUBJECT = "The Space Needle is in downtown", "The Space Needle"
Calls = list[tuple[tuple[EditRequest, ...], str, dict[str, Any]]]
RECORDS: list[dict[str, Any]] = [
    {
        "requested_rewrite": {
            "prompt": "{} is in",
            "subject": subject,
            "target_new": {"str": "Paris"},
            "target_true": {"str": "Rome"},
        },
        "paraphrase_prompts": [f"{subject} stands in"],
        "neighborhood_prompts": ["Smith Tower is in", "The Seine is in"],
        "generation_prompts": [f"{subject} is"],
    }
    for subject in ("The Space Needle", "Big Ben", "Miles Davis")
]
