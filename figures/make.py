"""The gallery that README shows: ``make figures`` writes it again from the embedded model."""

from __future__ import annotations

from pathlib import Path

import tracer
from tracer.progress import track

HERE = Path(__file__).parent
WINDOW = 3  # of eight layers; the paper restores ten of 48

SPACE_NEEDLE = tracer.Fact("{} is in downtown", "The Space Needle")
OTHERS = (
    tracer.Fact("The capital city of {} is", "France"),
    tracer.Fact("By profession, {} is a", "Albert Einstein"),
    tracer.Fact("The company that makes {} is", "Corolla"),
)


def main() -> None:
    model = tracer.load()
    kinds = ("hidden", "mlp", "attn")
    panels = [tracer.causal_trace(model, SPACE_NEEDLE, kind=kind, window=WINDOW) for kind in kinds]
    others = [tracer.causal_trace(model, fact) for fact in OTHERS]
    figures = {
        "space_needle.png": tracer.plot_trace(panels),
        "space_needle.svg": tracer.plot_trace(panels),
        "other_facts.png": tracer.plot_trace(others),
    }
    for name in track(figures, "drawing"):
        print(tracer.export(figures[name], HERE / name))


if __name__ == "__main__":
    main()
