"""What each entry of a memory does: the same questions with the entry taken out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from editing.memories.attach import memory_named
from tracer.engine.memories import remembering
from tracer.progress import track

from .answers import Answers, mean
from .asking import ask
from .probes import Probes
from .question import Question

if TYPE_CHECKING:
    import pandas as pd

    from tracer.model import Model


def ablate(model: Model, name: str, questions: Probes | Iterable[Question]) -> pd.DataFrame:
    """Ask a model questions with each entry of one of its memories taken out in turn.

    The model is left as it was found.

    Args:
        model: that has the memory.
        name: of the memory.
        questions: those asked.

    Returns:
        One row per entry, with what the kind tells of it (`editing.memories.Kind.entries`), and: acts_on, on how many
            of the questions it acts; as_meant, the share that answers as the edit means (ES, PS or NS) without it;
            as_meant_with, the same of the whole memory; change, the mean absolute change of the log-probability per
            token of the wanted answer.

    Raises:
        TracerError: the model has no such memory; entries of its kind do not stand each by itself.
    """
    import pandas as pd

    probes = questions if isinstance(questions, Probes) else Probes(tuple(questions))
    memory = memory_named(model, name)
    whole = ask(model, probes)
    acted = [route.entry for one in whole.each for route in one.routes if route.memory == name and route.hit]
    others = [each for each in model.memories if each.name != name]
    rows = []
    entries = memory.acts.entries(memory)
    for place, told in enumerate(track(entries, "entries", len(entries))):
        with remembering(model, [*others, memory.acts.without(memory, place)]):
            found = ask(model, probes)
        rows.append(
            {
                **told,
                "acts_on": acted.count(place),
                "as_meant": mean(found.as_meant),
                "as_meant_with": mean(whole.as_meant),
                "change": float(np.nanmean(np.abs(_wanted(found) - _wanted(whole)))),
            }
        )
    return pd.DataFrame(rows)


def _wanted(answers: Answers) -> np.ndarray:
    return np.array([one.nll for one in answers.each])
