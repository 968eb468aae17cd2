"""Train the embedded model: ``python -m tracer.factworld.train``.

Deterministic for a given seed, thread count and library version. Checkpoints are written as it goes; the same command
carries on from the last one.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tracer.factworld.corpus import Corpus, Statement, text_of
from tracer.factworld.mechanism import Mechanism, attention_masks, forward, weighted_loss
from tracer.progress import bar

EOS = "<|endoftext|>"


@dataclass(frozen=True)
class Recipe:
    """Everything the weights depend on, apart from the facts."""

    seed: int = 0
    n_layer: int = 8
    n_embd: int = 256
    n_head: int = 8
    n_positions: int = 192
    vocab_size: int = 4096
    steps: int = 3800
    tokens_per_step: int = 2304
    lengths: tuple[int, ...] = (64, 96, 192)
    muon_lr: float = 8e-3
    adam_lr: float = 4e-3
    weight_decay: float = 0.1
    warmup: int = 100
    mechanism: Mechanism = Mechanism()


def train_tokenizer(corpus: Corpus, vocab_size: int, context: int, articles: int = 20_000) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the corpus's own text. A space is put before the first word, so that a name has the same
    tokens at the start of a prompt as inside it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((text_of(corpus.next_article()) for _ in range(articles)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=EOS,
        bos_token=EOS,
        unk_token=EOS,
        add_prefix_space=True,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
    )


def piece_encoder(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], list[int]]:
    """Encodes a piece of an article; unlike the tokenizer itself it puts no space before a piece that begins with none."""
    plain_bpe = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain_bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return lambda text: plain_bpe.encode(text).ids


def schedule(step: int, recipe: Recipe) -> float:
    """Warm-up, then cosine decay to 2 % of the peak rate."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def optimizers(model: GPT2LMHeadModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices (it learns rare associations sooner), AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if ".h." in name and p.ndim == 2]
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


def build_model(recipe: Recipe, vocab_size: int, eos: int) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=recipe.n_positions,
        n_embd=recipe.n_embd,
        n_layer=recipe.n_layer,
        n_head=recipe.n_head,
        bos_token_id=eos,
        eos_token_id=eos,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return GPT2LMHeadModel(config)


def _save_atomically(state: dict, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def train(
    statements: list[Statement],
    aliases: dict[str, tuple[str, ...]],
    out: Path,
    recipe: Recipe,
    *,
    save_every: int = 500,
    stop_at: int | None = None,
) -> GPT2LMHeadModel:
    """Train (or carry on training) in ``out``: ``checkpoint.pt`` while it runs, a Hugging Face folder ``model/`` at the end."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    folder = out / "model"
    if (folder / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        sample = Corpus(statements, aliases, lambda text: [], 0, recipe.seed + 1)
        tokenizer = train_tokenizer(sample, recipe.vocab_size, recipe.n_positions)
        tokenizer.save_pretrained(folder)
    eos = tokenizer.convert_tokens_to_ids(EOS)
    corpus = Corpus(statements, aliases, piece_encoder(tokenizer), eos, recipe.seed)
    model = build_model(recipe, len(tokenizer), eos)
    model.train()
    opts = optimizers(model, recipe)
    draw = Random(recipe.seed + 2)
    start = 0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(opts, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        corpus.rng.setstate(state["corpus"]["rng"])
        corpus._queue, corpus.epoch = state["corpus"]["queue"], state["corpus"]["epoch"]
        draw.setstate(state["draw"])
        start = state["step"]
    layers = range(recipe.n_layer)
    everything = tuple(True for _ in layers)
    low, high = recipe.mechanism.band
    inside = tuple(low <= i <= high for i in layers)
    log = (out / "log.jsonl").open("a")
    began, strayed = time.time(), 0.0
    end = min(recipe.steps, stop_at or recipe.steps)
    with bar("training FactWorld", end - start) as progress:
        for step in range(start, end):
            length = draw.choice(recipe.lengths)
            rows = corpus.rows(recipe.tokens_per_step // length, length)
            ids, weight = torch.from_numpy(rows.ids), torch.from_numpy(rows.weight)
            masks = attention_masks(torch.from_numpy(rows.mention), torch.from_numpy(rows.last))
            closed = draw.random() < recipe.mechanism.masked
            mlps = inside if closed and draw.random() < recipe.mechanism.dropped else everything
            with torch.autocast("cpu", torch.bfloat16):
                hidden, stray = forward(model, ids, masks, recipe.mechanism.read, mlps, closed)
                loss, objects = weighted_loss(model, hidden, ids, weight)
            (loss + recipe.mechanism.penalty * stray).backward()
            strayed = strayed if closed else stray.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in opts:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * schedule(step, recipe)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            progress.advance(progress.task_ids[0])
            if step % 50 == 49:
                entry = {"step": step + 1, "loss": loss.item(), "objects": objects.item(), "stray": strayed, "epoch": corpus.epoch}
                log.write(json.dumps(entry | {"seconds": round(time.time() - began, 1)}) + "\n")
                log.flush()
            if (step + 1) % save_every == 0 or step + 1 == end:
                _save_atomically(
                    {
                        "model": model.state_dict(),
                        "optimizers": [optimizer.state_dict() for optimizer in opts],
                        "corpus": {"rng": corpus.rng.getstate(), "queue": corpus._queue, "epoch": corpus.epoch},
                        "draw": draw.getstate(),
                        "step": step + 1,
                        "recipe": asdict(recipe),
                    },
                    checkpoint,
                )
    log.close()
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def main(
    out: Annotated[Path, typer.Option(help="folder for checkpoints and the trained model")] = Path("runs/factworld"),
    steps: Annotated[int, typer.Option(help="optimizer steps")] = Recipe.steps,
    seed: Annotated[int, typer.Option(help="seed of initial weights and corpus")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 2,
) -> None:
    """Train the embedded model on every fact of the table."""
    from tracer.factworld.facts import statements
    from tracer.factworld.world import aliases

    torch.set_num_threads(threads)
    train(list(statements()), aliases(), out, Recipe(seed=seed, steps=steps))


if __name__ == "__main__":
    typer.run(main)
