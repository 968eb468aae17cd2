"""Memories and their changes as values: folded, saved, copied with a model; and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asked import TEXTS, close, ids_of, inventory, read, some_toys
from handmade import own
from toys import toy, vectors

from editing.memories import Memory, MemoryChange, attach, attached, detach, folded, load_memory
from tracer import Model, TracerError

Tiny = Callable[[str], Model]


# --- as values -------------------------------------------------------------------------------------------------------
def grown(model: Model, count: int = 4) -> list[Memory]:
    """Memories of 1, 2, ... entries, of which the last but one overwrites the first."""
    prompts = [ids_of(model, text) for text in TEXTS]
    rows = vectors(model, count)
    found = [toy(model, prompts[:n], rows[:n]) for n in range(1, count)]
    changed = rows[: count - 1].clone()
    changed[0] = vectors(model, seed=9)[0]
    return [*found, toy(model, prompts[: count - 1], changed)]


def test_changes_one_by_one_are_the_folded_memory(gpt2: Model) -> None:
    states = grown(gpt2)
    pairs = list(zip([None, *states], states, strict=False))
    changes = [MemoryChange.between(one, two) for one, two in pairs]
    assert [len(change.rows["vectors"]) for change in changes] == [
        1,
        1,
        1,
        3,
    ]  # of what is new; then one is overwritten
    assert folded(None, changes).digest == states[-1].digest  # type: ignore[union-attr]
    assert folded(None, changes[:2]).digest == states[1].digest  # type: ignore[union-attr]
    gone = MemoryChange.between(states[-1], None)
    assert folded(None, [*changes, gone]) is None
    with pytest.raises(TracerError, match=r"begins with the memory 'toy' .*, but the model has no memory 'toy'; make"):
        changes[1].on(None)
    with pytest.raises(TracerError, match=r"leads to the memory 'toy' .* its file was changed"):
        replace(changes[0], rows={"vectors": changes[0].rows["vectors"] + 1}).on(None)
    with pytest.raises(TracerError, match="a change goes from a memory to another of its name"):
        MemoryChange.between(states[0], replace(states[0], name="other"))


def test_saved_loaded_and_attached_it_gives_the_same_bits(model: Model, tmp_path: Path) -> None:
    memory = some_toys(model)[1]
    again = load_memory(memory.save(tmp_path / "m"))
    assert again.digest == memory.digest and again.header == memory.header
    with attached(model, memory):
        one = read(model)
        print_one = model.fingerprint()
    with attached(model, again):
        two = read(model)
        assert model.fingerprint() == print_one
    assert all(np.array_equal(a, b) for a, b in zip(one[0], two[0], strict=True)) and one[1] == two[1]


def test_the_last_of_two_targets_of_a_prompt_wins(model: Model) -> None:
    *_, before, after = grown(model)
    with attached(model, before):
        one = read(model)[0]
    with attached(model, after):
        two = read(model)[0]
    with attached(model, toy(model, [ids_of(model, TEXTS[0])], vectors(model, seed=9))):
        alone = read(model)[0]
    assert not close(one[:1], two[:1]) and close(two[:1], alone[:1]) and close(one[1:], two[1:])


def test_a_copy_of_the_module_has_the_memory_and_its_own_hooks(gpt2: Model) -> None:
    memory = some_toys(gpt2)[0]
    bare = read(gpt2)[0]
    attach(gpt2, memory)
    copy = own(gpt2)
    assert copy.fingerprint() == gpt2.fingerprint() and copy.memories[0] is memory
    here = read(gpt2)[0]
    detach(gpt2, "toy")
    assert all(np.array_equal(a, b) for a, b in zip(read(copy)[0], here, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(read(gpt2)[0], bare, strict=True))
    detach(copy, "toy")
    assert inventory(copy)["hooks"] == inventory(gpt2)["hooks"] and copy.fingerprint() == gpt2.fingerprint()


# --- refusals --------------------------------------------------------------------------------------------------------
def test_memories_that_do_not_fit_are_refused_with_the_repair(gpt2: Model, tiny: Tiny, tmp_path: Path) -> None:
    before = inventory(gpt2)
    memory = some_toys(gpt2)[0]
    with pytest.raises(TracerError, match=r"was made on the weights .*load the model it was made for, or pass force"):
        attach(gpt2, replace(memory, fingerprint="0" * 64))
    wide = toy(gpt2, [(1, 2)], torch.ones(1, 5))
    with pytest.raises(TracerError, match=r"is \[1, 5\]; expected a last dimension of 32, the d_model"):
        attach(gpt2, wide, force=True)
    with pytest.raises(TracerError, match="the tensor 'vectors' of the memory 'toy' is missing"):
        attach(gpt2, replace(memory, tensors={}))
    with pytest.raises(TracerError, match=r"does not fit .*layer 99 .* out of range.*make it on this model"):
        attach(gpt2, toy(gpt2, [(1,)], vectors(gpt2), layer=99))
    with pytest.raises(TracerError, match="holds NaN or infinity; nothing was attached"):
        toy(gpt2, [(1,)], torch.full((1, 32), torch.nan))
    with pytest.raises(TracerError, match="cannot be written as json"):
        replace(memory, header={"text": torch.ones(1)})
    with pytest.raises(TracerError, match=r"there is no kind of memory 'grass'; known are: .*toy"):
        replace(memory, kind="grass")
    assert inventory(gpt2) == before
    attach(gpt2, memory)
    with pytest.raises(TracerError, match="cannot have two memories named 'toy'; give one of them another name"):
        attach(gpt2, some_toys(gpt2)[1])
    assert gpt2.memories == (memory,)
    detach(gpt2, "toy")
    with pytest.raises(TracerError, match="has no memory 'toy'; it has none"):
        detach(gpt2, "toy")
    path = memory.save(tmp_path / "m")
    whole = path.read_bytes()
    for count in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:count])
        with pytest.raises(TracerError, match="is not a saved Memory"):
            load_memory(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TracerError, match="is damaged"):
        load_memory(path)
    assert inventory(gpt2) == before


def test_what_cannot_hold_a_memory_says_so(gpt2: Model) -> None:
    attach(gpt2, some_toys(gpt2)[0])
    with pytest.raises(TracerError, match="which a TransformerBridge cannot have; take them off first"):
        gpt2.bridge()
