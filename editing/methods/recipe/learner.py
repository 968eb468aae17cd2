"""RECIPE's nets while they learn: what is retrieved, what is said with a soft prompt in front, and what is to stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.soft_nets import (
    ENCODER,
    KNOWLEDGE,
    PAD,
    QUERY,
    SHIFT,
    own_pool,
    pool_of,
    prompts_of,
    represented,
    sentinel_pool,
    similarities,
)
from tracer.engine.batch import pad
from tracer.engine.front import logits_with_front, position_vectors

from .fresh import Batch
from .losses import kept_loss, retrieval_losses, said_loss
from .nets import new_parameters
from .settings import RECIPEPreparation

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.engine.batch import Row
    from tracer.model import Model

ENCODED = "encoder/"
FLAT = 1e-2  # spread of a number that hardly differs between texts, at least; states have length 1 a number


class Learner:
    """RECIPE's nets while they learn.

    Args:
        model: to be edited, frozen.
        settings: of the preparation.
        told: what the heads read, as a header says it.
        draw: random numbers of the first parameters.
        usual: texts in tokens, from whose pooled states of the model their mean and spread are taken: heads learn from
            what differs between texts, where all have much in common. Without any, as they are.
    """

    def __init__(
        self,
        model: Model,
        settings: RECIPEPreparation,
        told: Mapping[str, Any],
        draw: torch.Generator,
        usual: Sequence[Ids] = (),
    ) -> None:
        self.model, self.settings, self.told = model, settings, told
        self.encoder: Any = None
        parameters: dict[str, Tensor] = {}
        if told["by"] == ENCODER:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch.randint(1 << 62, (1,), generator=draw)))
                self.encoder = new_encoder(told["config"]).to(model.device)
            parameters = {f"{ENCODED}{name}": each for name, each in self.encoder.named_parameters()}
        width = settings.encoder_width if self.encoder is not None else model.d_model * len(told["layers"])
        own = new_parameters(width, model.d_model, settings, draw)
        self.parameters = {
            **parameters,
            **{name: tensor.to(model.device).requires_grad_() for name, tensor in own.items()},
        }
        self.positions = position_vectors(model)
        self.mean, self.spread = torch.zeros(()), torch.ones(())
        if self.encoder is None and len(usual) > 1:
            states = self.pools(usual)
            self.mean, self.spread = states.mean(0), states.std(0).clamp_min(FLAT)

    def pools(self, texts: Sequence[Ids]) -> Tensor:
        """Pooled states of texts, [texts, 4 width]."""
        ids = pad(texts).to(self.model.device)
        lengths = torch.tensor([len(text) for text in texts], device=ids.device).unsqueeze(1)
        real = torch.arange(ids.shape[1], device=ids.device) < lengths
        if self.encoder is None:
            return (own_pool(self.model, ids, real, self.told["layers"]) - self.mean) / self.spread
        return pool_of(self.encoder, torch.where(real, ids + SHIFT, PAD), real)

    def knowledge(self, texts: Sequence[Ids]) -> Tensor:
        """Representations of the sentinel and of edits, [1 + texts, rep]."""
        pools = torch.cat([sentinel_pool(self.parameters, self.encoder), self.pools(texts)])
        return represented(self.parameters, KNOWLEDGE, pools)

    def queries(self, texts: Sequence[Ids]) -> Tensor:
        """Representations of questions, [texts, rep]."""
        return represented(self.parameters, QUERY, self.pools(texts))

    @torch.no_grad()
    def fold(self) -> None:
        """Let the heads read pooled states as they are, with the same representations; the sentinel's tokens do not."""
        for side in (KNOWLEDGE, QUERY) if self.encoder is None else ():
            weight, bias = (self.parameters[f"{side}.linear.{name}"] for name in ("weight", "bias"))
            weight.div_(self.spread)
            bias.sub_((weight * self.mean).sum(-1))
        self.mean, self.spread = torch.zeros(()), torch.ones(())

    def prompts(self, knowledge: Tensor) -> Tensor:
        """Soft prompts [entries, P, d] of representations without the sentinel's."""
        return prompts_of(self.parameters, knowledge).view(len(knowledge), -1, self.model.d_model)

    def losses(self, batch: Batch, swapped: Tensor) -> dict[str, Tensor]:
        """All of the losses, and their sum.

        Args:
            batch: edits and questions.
            swapped: whether the two wordings of each edit change parts, [edits] bool.
        """
        count, hinge = len(batch.texts), self.settings.hinge
        knowledge = self.knowledge(batch.texts)
        rows = [*batch.said, *batch.again, *batch.apart]
        said, again, apart = self.queries([row.prompt(True) for row in rows]).split(count)
        turn = swapped.to(said.device).unsqueeze(1)
        near = [
            similarities(each, knowledge)
            for each in (torch.where(turn, again, said), torch.where(turn, said, again), apart)
        ]
        parts_found = retrieval_losses(near[0], near[1], near[2], hinge)
        found: dict[str, Tensor] = dict(zip(("own", "without", "other"), parts_found, strict=True))
        prompts = self.prompts(knowledge[1:])
        logits = logits_with_front(self.model, rows, prompts.repeat(3, 1, 1), self.positions)
        parts = logits.split([sum(len(row.read) for row in each) for each in (batch.said, batch.again, batch.apart)])
        for name, part, own in (("said", parts[0], batch.said), ("again", parts[1], batch.again)):
            found[name] = said_loss(part, _targets(own).to(part.device), hinge)
        with torch.no_grad():
            bare = logits_with_front(self.model, batch.apart, prompts[:, :0], None)
        found["kept"] = kept_loss(bare, parts[2])
        return {"loss": torch.stack(list(found.values())).sum(), **found}


def new_encoder(config: Mapping[str, Any]) -> Any:
    """A RoBERTa with a pooler that has learnt nothing."""
    from transformers import AutoConfig, AutoModel

    settings = dict(config)
    return AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings)).eval()


def _targets(rows: Sequence[Row]) -> Tensor:
    return torch.tensor([token for row in rows for token in row.target])
