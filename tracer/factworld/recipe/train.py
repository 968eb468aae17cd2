"""Train the embedded model: `python -m tracer.factworld.recipe.train`.

Deterministic for a given seed, thread count and library version. Checkpoints are written as it goes; the same command
carries on from the last one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated, Protocol

import numpy as np
import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tracer.errors import FactWorldTableError
from tracer.factworld.corpus import WEIGHTS, Corpus, Statement, text_of
from tracer.files import new_file
from tracer.progress import bar

from .mechanism import Mechanism, attention_masks, forward, weighted_loss

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
    refine_from: int = 2000
    mechanism: Mechanism = field(default_factory=Mechanism)


def train_tokenizer(corpus: Corpus, vocab_size: int, context: int, articles: int = 20_000) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the corpus's own text.

    A space is put before the first word, so that a name has the same tokens at the start of a prompt as inside it.
    """
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
    """A function that encodes a piece of an article.

    Unlike the tokenizer itself it puts no space before a piece that begins without one.
    """
    plain_bpe = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain_bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return lambda text: plain_bpe.encode(text, add_special_tokens=False).ids


class Course(Protocol):
    """Length of a training."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        ...

    @property
    def warmup(self) -> int:
        """Steps in which the rate rises."""
        ...


def schedule(step: int, recipe: Course) -> float:
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
    """A GPT-2 with fresh weights and without dropout."""
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


@dataclass
class _Run:
    """Everything that changes while training, so that it can be saved and carried on."""

    model: GPT2LMHeadModel
    optimizers: list[torch.optim.Optimizer]
    corpus: Corpus
    draw: Random
    step: int = 0

    def save(self, path: Path, recipe: Recipe) -> None:
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

    def restore(self, path: Path, recipe: Recipe) -> None:
        # its own file: python objects (the corpus's queue) are in it
        state = torch.load(path, weights_only=False)
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

    def advance(self, recipe: Recipe) -> dict[str, float]:
        """One optimizer step; returns its measurements."""
        mechanism, refining = recipe.mechanism, self.step >= recipe.refine_from
        length = self.draw.choice(recipe.lengths)
        rows = self.corpus.rows(recipe.tokens_per_step // length, length)
        ids, weight = torch.from_numpy(rows.ids), torch.from_numpy(rows.weight)
        masks = attention_masks(torch.from_numpy(rows.mention), torch.from_numpy(rows.last))
        closed = self.draw.random() < mechanism.masked
        low, high = mechanism.band
        dropped = closed and self.draw.random() < mechanism.dropped
        mlps = tuple(low <= i <= high or not dropped for i in range(recipe.n_layer))
        early = refining and closed and self.draw.random() < mechanism.early_reading
        reading = range(mechanism.read, recipe.n_layer - early)
        noise = None
        if refining and not closed and self.draw.random() < mechanism.unreadable:
            noise = self.unreadable(ids, rows.mention, mechanism.noise)
            weight = weight.masked_fill(weight == WEIGHTS["object"], 0.0)
        with torch.autocast("cpu", torch.bfloat16):
            hidden, stray = forward(self.model, ids, masks, reading, mlps, closed, noise)
            loss, objects = weighted_loss(self.model, hidden, ids, weight)
        (loss + mechanism.penalty * stray).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(self.step, recipe)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        measured = {"loss": loss.item(), "stray": stray.item()}
        return measured if noise is not None else {**measured, "objects": objects.item()}

    def unreadable(self, ids: torch.Tensor, mention: np.ndarray, level: float) -> torch.Tensor:
        """Noise [rows, length, d_model] on the tokens of mentions, `level` standard deviations of their embeddings."""
        inside = torch.from_numpy(mention > 0)
        spread = self.model.transformer.wte.weight.detach()[ids[inside]].std()
        drawn = np.random.RandomState(self.draw.getrandbits(32)).randn(*ids.shape, self.model.config.n_embd)
        return torch.from_numpy(drawn).float() * (level * spread) * inside[..., None]


def train(
    statements: Sequence[Statement],
    aliases: dict[str, tuple[str, ...]],
    out: Path,
    recipe: Recipe,
    *,
    save_every: int = 500,
    stop_at: int | None = None,
) -> GPT2LMHeadModel:
    """Train, or carry on training, in `out`.

    `checkpoint.pt` and `log.jsonl` grow while it runs; `model/` is a Hugging Face folder at the end.

    Raises:
        TracerError: a checkpoint there was made by another recipe.
    """
    folder, checkpoint = out / "model", out / "checkpoint.pt"
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    if (folder / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        sample = Corpus(statements, aliases, lambda text: [], 0, recipe.seed + 1)
        tokenizer = train_tokenizer(sample, recipe.vocab_size, recipe.n_positions)
        tokenizer.save_pretrained(folder)
    eos = int(tokenizer.convert_tokens_to_ids(EOS))  # type: ignore[arg-type]
    model = build_model(recipe, len(tokenizer), eos).train()
    corpus = Corpus(statements, aliases, piece_encoder(tokenizer), eos, recipe.seed)
    run = _Run(model, optimizers(model, recipe), corpus, Random(recipe.seed + 2))
    if checkpoint.exists():
        run.restore(checkpoint, recipe)
    end = min(recipe.steps, stop_at or recipe.steps)
    began = time.time()
    with bar("training FactWorld", end - run.step) as progress, (out / "log.jsonl").open("a") as log:
        while run.step < end:
            measured = run.advance(recipe)
            progress.advance(progress.task_ids[0])
            if run.step % 50 == 0:
                entry = {"step": run.step, "epoch": corpus.epoch, **measured, "seconds": round(time.time() - began, 1)}
                log.write(json.dumps(entry) + "\n")
                log.flush()
            if run.step % save_every == 0 or run.step == end:
                run.save(checkpoint, recipe)
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
    train(statements(), aliases(), out, Recipe(seed=seed, steps=steps))


if __name__ == "__main__":
    typer.run(main)
