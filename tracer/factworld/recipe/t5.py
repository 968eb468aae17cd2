"""Train the embedded T5: `python -m tracer.factworld.recipe.t5`.

Deterministic for a given seed, thread count and library version. Checkpoints are written as it goes; the same command
carries on from the last one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from tokenizers import AddedToken, Tokenizer, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from tracer.errors import FactWorldTableError
from tracer.factworld.corpus import Statement
from tracer.factworld.grammar import PHRASINGS, fill
from tracer.factworld.questions import QUESTIONS
from tracer.files import new_file
from tracer.model.find import find_checkpoint
from tracer.progress import bar

from .t5_mechanism import T5Mechanism, forward, masks_of
from .t5_rows import END, PAD, SENTINELS, T5Corpus
from .train import piece_encoder, schedule


@dataclass(frozen=True)
class T5Recipe:
    """Everything the weights depend on, apart from the facts."""

    seed: int = 0
    layers: int = 5
    decoder_layers: int = 3
    d_model: int = 128
    d_ff: int = 384
    heads: int = 4
    steps: int = 2600
    rows: int = 160
    muon_lr: float = 1e-2
    adam_lr: float = 1e-2
    weight_decay: float = 0.1
    warmup: int = 100
    mechanism: T5Mechanism = field(default_factory=T5Mechanism)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The embedded GPT-2's tokenizer with T5's special tokens: sources end with one, and sentinels mark spans."""
    folder, _ = find_checkpoint(None)
    bpe = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bpe.add_special_tokens([PAD, END, *(AddedToken(mark, lstrip=True) for mark in SENTINELS)])
    bpe.post_processor = processors.Sequence(  # type: ignore[assignment]
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=f"$A {END}", pair=None, special_tokens=[(END, bpe.token_to_id(END))]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        unk_token="<|endoftext|>",
        extra_special_tokens=list(SENTINELS),
        clean_up_tokenization_spaces=False,
        model_max_length=192,
    )


def build_model(recipe: T5Recipe, tokenizer: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    """A T5 with fresh weights and without dropout."""
    pad: Any = tokenizer.pad_token_id
    end: Any = tokenizer.eos_token_id
    config = T5Config(
        vocab_size=-(-len(tokenizer) // 8) * 8,
        d_model=recipe.d_model,
        d_kv=recipe.d_model // recipe.heads,
        d_ff=recipe.d_ff,
        num_layers=recipe.layers,
        num_decoder_layers=recipe.decoder_layers,
        num_heads=recipe.heads,
        dropout_rate=0.0,
        pad_token_id=pad,
        eos_token_id=end,
    )
    config.decoder_start_token_id = config.pad_token_id
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        model.shared.weight.mul_(0.3)  # rows of length 11 would drown what the first layers add
    return model


def optimizers(model: T5ForConditionalGeneration, recipe: T5Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if ".block." in name and p.ndim == 2 and "bias" not in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(
        matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer, rate in ((muon, recipe.muon_lr), (adam, recipe.adam_lr)):
        for group in optimizer.param_groups:
            group["peak"] = rate
    return [muon, adam]


@dataclass
class _Run:
    """Everything that changes while training, so that it can be saved and carried on."""

    model: T5ForConditionalGeneration
    optimizers: list[torch.optim.Optimizer]
    corpus: T5Corpus
    draw: Random
    step: int = 0

    def save(self, path: Path, recipe: T5Recipe) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "corpus": self.corpus.state(),
            "draw": self.draw.getstate(),
            "step": self.step,
            "recipe": asdict(recipe),
        }
        with new_file(path) as temporary:
            torch.save(state, temporary)

    def restore(self, path: Path, recipe: T5Recipe) -> None:
        state = torch.load(path, weights_only=False)  # its own file: the corpus's queue is in it
        if state["recipe"] != asdict(recipe):
            raise FactWorldTableError(
                f"{path} was made by another recipe; train in another folder, or delete it to begin again"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.corpus.restore(state["corpus"])
        self.draw.setstate(state["draw"])
        self.step = state["step"]

    def advance(self, recipe: T5Recipe) -> dict[str, float]:
        """One optimizer step; returns its measurements."""
        mechanism, batch = recipe.mechanism, self.corpus.batch(recipe.rows)
        closed = self.draw.random() < mechanism.masked
        dropped = closed and self.draw.random() < mechanism.dropped
        masks = masks_of(batch.real, batch.mention, batch.last)
        forced = self.model._shift_right(batch.labels)  # as the library shifts labels
        with torch.autocast("cpu", torch.bfloat16):
            states, stray = forward(self.model, batch.source, batch.real, forced, masks, mechanism, closed, dropped)
            written = batch.labels >= 0
            logits = self.model.lm_head(states[written])
        losses = F.cross_entropy(logits.float(), batch.labels[written], reduction="none")
        weight = batch.weight[written]
        loss = (losses * weight).sum() / weight.sum()
        (loss + mechanism.penalty * stray).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(self.step, recipe)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {"loss": loss.item(), "stray": stray.item(), "objects": losses[weight == 1].mean().item()}


def train(
    statements: Sequence[Statement],
    aliases: dict[str, tuple[str, ...]],
    out: Path,
    recipe: T5Recipe,
    *,
    save_every: int = 250,
    stop_at: int | None = None,
) -> T5ForConditionalGeneration:
    """Train, or carry on training, in `out`.

    `checkpoint.pt` and `log.jsonl` grow while it runs; `model/` is a Hugging Face folder at the end, with weights in
    half precision and `card.json`, what the model recalls.

    Raises:
        TracerError: a checkpoint there was made by another recipe.
    """
    folder, checkpoint = out / "model", out / "checkpoint.pt"
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    tokenizer = make_tokenizer()
    model = build_model(recipe, tokenizer).train()
    ids = {mark: int(tokenizer.convert_tokens_to_ids(mark)) for mark in (PAD, END, *SENTINELS)}  # type: ignore[arg-type]
    corpus = T5Corpus(statements, aliases, piece_encoder(tokenizer), ids, recipe.seed)
    run = _Run(model, optimizers(model, recipe), corpus, Random(recipe.seed + 2))
    if checkpoint.exists():
        run.restore(checkpoint, recipe)
    end = min(recipe.steps, stop_at or recipe.steps)
    began = time.time()
    with bar("training FactWorld-T5", end - run.step) as progress, (out / "log.jsonl").open("a") as log:
        while run.step < end:
            measured = run.advance(recipe)
            progress.advance(progress.task_ids[0])
            if run.step % 50 == 0:
                entry = {"step": run.step, "epoch": corpus.epoch, **measured, "seconds": round(time.time() - began, 1)}
                log.write(json.dumps(entry) + "\n")
                log.flush()
            if run.step % save_every == 0 or run.step == end:
                run.save(checkpoint, recipe)
    model.eval().half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = json.dumps({"recall": recall(model.float(), tokenizer, statements)}, indent=1)
    (folder / "card.json").write_text(card + "\n", encoding="utf-8")
    return model


def recall(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, statements: Sequence[Statement]
) -> dict[str, float]:
    """Share of facts whose every answer token is the most probable one, by kind of prompt.

    Kinds: "seen", the first training template as a span; "held_out", the first paraphrase never met; "question".
    """
    mark = SENTINELS[0]
    kinds = {
        "seen": [(f"{fill(PHRASINGS[s.relation].train[0], s.subject)} {mark}", mark) for s in statements],
        "held_out": [(f"{fill(PHRASINGS[s.relation].held_out[0], s.subject)} {mark}", mark) for s in statements],
        "question": [(fill(QUESTIONS[s.relation], s.subject), "") for s in statements],
    }
    found = {}
    for kind, prompts in kinds.items():
        right = 0
        for start in range(0, len(prompts), 256):
            some = prompts[start : start + 256]
            read: Any = tokenizer([text for text, _ in some], padding=True, return_tensors="pt")
            fronts = [[tokenizer.convert_tokens_to_ids(front)] if front else [] for _, front in some]
            objects = [" " + s.object for s in statements[start : start + 256]]
            answers = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in objects]
            labels = [torch.tensor([*front, *answer]) for front, answer in zip(fronts, answers, strict=True)]
            wanted = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
            with torch.no_grad():
                best = model(input_ids=read["input_ids"], attention_mask=read["attention_mask"], labels=wanted)
            right += int(((best.logits.argmax(-1) == wanted) | (wanted == -100)).all(1).sum())
        found[kind] = right / len(prompts)
    return found


def main(
    out: Annotated[Path, typer.Option(help="folder for checkpoints and the trained model")] = Path("runs/factworld-t5"),
    steps: Annotated[int, typer.Option(help="optimizer steps")] = T5Recipe.steps,
    seed: Annotated[int, typer.Option(help="seed of initial weights and corpus")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
) -> None:
    """Train the embedded T5 on every fact of the table."""
    from tracer.factworld.facts import statements
    from tracer.factworld.world import aliases

    torch.set_num_threads(threads)
    train(statements(), aliases(), out, T5Recipe(seed=seed, steps=steps))


if __name__ == "__main__":
    typer.run(main)
