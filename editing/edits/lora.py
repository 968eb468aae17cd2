"""An edit as a LoRA adapter: a change U V^T of rank r is the product B A of a LoRA layer of rank r.

LoRA adds (alpha / r) B A to a Linear weight [out, in], and its transpose to a Conv1D weight [in, out]; with alpha = r
the factor is 1 (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.1).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.checks import installed
from tracer.errors import AdapterError
from tracer.files import new_folder
from tracer.model import as_stored

from .weights import Factors, orientation_of

if TYPE_CHECKING:
    from tracer.model import Model


def to_peft(
    factors: Factors,
    orientation: str | None,
    base: str,
    folder: str | Path,
    model: Model | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `adapter_config.json` and `adapter_model.safetensors` into a folder, whole or not at all; return it.

    `peft.PeftModel.from_pretrained(hf, folder)` on the weights the edit was computed on gives the edited model, and
    `merge_and_unload` its weights.

    Args:
        factors: the edit's.
        orientation: of the weights, "in_out" or "out_in", where the edit records it.
        base: name of the model the edit is for.
        folder: to write into.
        model: tells how the weights are stored, where the edit does not, and whether the model is a masked one.
        overwrite: replace the contents of the folder.

    Raises:
        TracerError: an edit without factors, one of unknown orientation (and no model given), weights that LoRA has no
            layer for, or a folder that is not empty.
    """
    from safetensors.torch import save_file

    peft = installed("peft", "lora", "a LoRA adapter", kind=AdapterError)

    factors = {name: pair for name, pair in factors.items() if pair[0].shape[1]}  # LoRA knows no rank of 0
    if model is not None:
        orientation = orientation_of(model, factors)
    strange = [name for name in factors if not name.endswith(".weight")]
    if strange or not factors or (model is not None and orientation is None):
        found = ", ".join(strange or factors) or "none"
        raise AdapterError(f"a LoRA adapter changes weights of Linear or of Conv1D modules; this edit changes {found}")
    if orientation not in ("in_out", "out_in"):
        raise AdapterError(
            "this edit does not say whether its weights are stored as [in, out] or [out, in]; give the model it is "
            "for: edit.to_peft(folder, model=model)"
        )
    ranks, tensors = {}, {}
    for name, (u, v) in factors.items():
        path = name.removesuffix(".weight")
        inner, b = as_stored(orientation, u, v)  # A^T [in, r], B [out, r]
        a = inner.T
        ranks[path] = u.shape[1]
        tensors[f"base_model.model.{path}.lora_A.weight"] = a.contiguous().clone()
        tensors[f"base_model.model.{path}.lora_B.weight"] = b.contiguous().clone()
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {path: rank for path, rank in ranks.items() if rank != usual}
    tasks = peft.TaskType
    kinds = {"causal": tasks.CAUSAL_LM, "seq2seq": tasks.SEQ_2_SEQ_LM}  # there is none for masked models
    config = peft.LoraConfig(
        r=usual,
        lora_alpha=usual,
        rank_pattern=dict(others),
        alpha_pattern=dict(others),
        lora_dropout=0.0,
        target_modules=list(ranks),
        fan_in_fan_out=orientation == "in_out",
        bias="none",
        task_type=kinds.get("causal" if model is None else model.style),
        inference_mode=True,
        base_model_name_or_path=base,
    )
    with new_folder(folder, overwrite) as temporary:
        config.save_pretrained(str(temporary))
        save_file(tensors, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
    return Path(folder)
