"""The LightningModule: RACG or a peer, its objective and its optimiser; evaluation.py ranks what it encodes of a split."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn

from racg_pl.bert import BertWords, read_config
from racg_pl.data import Batch
from racg_pl.errors import DataError
from racg_pl.evaluation import Evaluated, Seen, evaluate
from racg_pl.gather import all_pairs, gather
from racg_pl.losses import Pairs, collapse, contrastive, triplet
from racg_pl.method import Method
from racg_pl.model import RACG
from racg_pl.nodes import BIGRU, NodeEncoder
from racg_pl.peers import PEERS
from racg_pl.scoring import MEMORY_MB
from racg_pl.word_vectors import read_vectors

FACETS_OF = 128  # images of which channels are grouped to facets
CHUNK = 48  # captions of like length that a training step takes at once, whole vectors of the native operator
GPU_CHUNK = 128  # of RACG on a GPU, which would rather score padding than be asked more often (LOG.md)
METHODS: dict[str, tuple[Callable[..., Method], dict[str, str]]] = {"racg": (RACG, {})} | PEERS
OF_RACG = ("term_weight", "reconstruction_weight")  # options of the objective that only RACG has a use for


def make(method: str, options: dict[str, Any]) -> Method:
    """The model of a method.

    Args:
        options: those of RACGModule by name, of all methods together.
    Raises: DataError where there is no such method, or where an option is set that it has no use for.
    """
    if method not in METHODS:
        raise DataError(f"model: expected a method of {', '.join(METHODS)}, got {method!r}; choose one of them")
    kind, fixed = METHODS[method]
    known = inspect.signature(kind).parameters
    others = {name for other, _ in METHODS.values() for name in inspect.signature(other).parameters} - known.keys()
    for name, parameter in inspect.signature(RACGModule).parameters.items():
        unused = name in others or (name in OF_RACG and kind is not RACG)
        if unused and options[name] != parameter.default:
            raise DataError(
                f"model: expected {name} at its default {parameter.default}, since {method} has no use for it, "
                f"got {options[name]}; leave it out"
            )
    taken = {name: value for name, value in options.items() if name in known}
    return kind(**taken, vocabulary=options["words"], **fixed)


class RACGModule(LightningModule):
    """Trains and evaluates a method. All hyper-parameters are scalars, so that a checkpoint loads under `weights_only=True`.

    Args:
        feature_dim, words, objects, text_source: from the data, linked by the command line.
        method: racg, vse_infinity, scan_t2i, scan_i2t, saf or sgr.
        dim ... aggregation: of the model, see RACG; of peers those that they take, see peers/. Others must stay at their defaults.
        text_encoder: bigru, or a BERT of transformers by its name or folder (pip install racg_pl[bert]), whose pre-trained weights
            training starts from.  bert_config: is filled from it, leave it out.  bert_lr: its share of lr; 0 = it does not learn.
        word_vectors: of bigru: a text file by GloVe or fastText, of whose vectors training starts; words that it lacks start at random.
        lse: of SCAN, λ₂ of LogSumExp pooling; 0 = the mean.  steps: of SGR, of reasoning.
        lr: peak learning rate.  weight_decay: on matrices.  warmup: share of the steps in which lr rises; it falls along a cosine after.
        loss: over all negatives, contrastive (InfoNCE, learned temperature) or triplet.  margin: of the triplet losses.
        hard_after: share of the steps after which the hardest-negative triplet joins the loss; 1 = never.
        hard_weight: its weight.  term_weight: of the same loss on each term of RACG's score alone.
        reconstruction_weight: of RACG's part (6); 0 leaves it out.
        gather_negatives: where several processes train, score the images of each against the captions of all, so that the loss is
            that of one process with the whole batch; otherwise negatives are those of a process's own share.
    """

    def __init__(
        self,
        feature_dim: int,
        words: int,
        objects: int = 0,
        text_source: str = "",
        method: str = "racg",
        dim: int = 1024,
        align_dim: int = 256,
        word_dim: int = 300,
        heads: int = 8,
        relation_dim: int = 256,
        relation_heads: int = 8,
        relation_channels: int = 4,
        relation_start: float = 0.01,
        depth: int = 1,
        neighbours: int | None = None,
        temperature: float = 9.0,
        word_std: float = 0.06,
        dropout: float = 0.1,
        word_dropout: float = 0.0,
        region_dropout: float = 0.0,
        text_encoder: str = BIGRU,
        bert_config: str = "",
        bert_lr: float = 0.1,
        word_vectors: str = "",
        facets: bool = False,
        hide: float = 0.15,
        decode: Literal["regions", "objects"] = "regions",
        separate_embeddings: bool = False,
        semantic_graph: bool = True,
        intramodal: bool = True,
        cross_graph: bool = True,
        reconstruction: bool = True,
        multihead: bool = True,
        aggregation: bool = True,
        lse: float = 0.0,
        steps: int = 3,
        lr: float = 5e-4,
        weight_decay: float = 0.01,
        warmup: float = 0.05,
        loss: Literal["contrastive", "triplet"] = "contrastive",
        margin: float = 0.2,
        hard_after: float = 0.5,
        hard_weight: float = 1.0,
        term_weight: float = 0.0,
        reconstruction_weight: float = 0.1,
        gather_negatives: bool = False,
    ) -> None:
        super().__init__()
        if not lr > 0 or not margin > 0 or not 0 <= warmup <= 1:
            raise DataError(f"model: expected lr and margin above 0 and warmup in 0..1, got {lr}, {margin} and {warmup}")
        weights = {"weight_decay": weight_decay, "hard_after": hard_after, "hard_weight": hard_weight, "bert_lr": bert_lr}
        for name, value in (weights | {"term_weight": term_weight, "reconstruction_weight": reconstruction_weight}).items():
            if not value >= 0:
                raise DataError(f"model: expected a {name} of at least 0, got {value}")
        self.save_hyperparameters()
        if text_encoder != BIGRU and not bert_config:
            self.hparams["bert_config"] = read_config(text_encoder)  # so that a checkpoint needs neither folder nor network
        if word_vectors and text_encoder != BIGRU:
            raise DataError(
                f"model: expected no word_vectors with a BERT, got {word_vectors!r}; leave them or text_encoder out"
            )
        built = {"reconstruction": reconstruction and reconstruction_weight > 0} if method == "racg" else {}
        self.model = make(method, dict(self.hparams) | built)  # DDP wants no decoder that nothing trains
        if not bert_lr:
            for bert in self.berts:
                bert.bert.requires_grad_(False)
        self.log_tau = nn.Parameter(torch.tensor(math.log(0.05)), requires_grad=loss == "contrastive")  # DDP wants none idle
        self.restored = False  # from a checkpoint, whose weights are then not to be begun anew
        self.random: list[
            Tensor
        ] = []  # states of the checkpoint, of the processor and of each GPU, with which training goes on
        self.collapsed = False  # at the last look
        self.score_memory_mb = MEMORY_MB  # of evaluation: of blocks of pairs, and of the largest matrix of scores that is kept
        self.two_stage = 0  # candidates a query that `test` scores once more as from a large gallery; 0 = it does not
        self.seen = Seen()
        self.evaluated: Evaluated | None = None  # the last

    # ---- training ----

    @property
    def options(self) -> Any:
        """The hyper-parameters, by attribute."""
        return self.hparams

    @property
    def encoders(self) -> list[NodeEncoder]:
        """The model's, and that of its separate embeddings."""
        return [part for part in self.model.modules() if isinstance(part, NodeEncoder)]  # type: ignore[attr-defined]

    @property
    def berts(self) -> list[BertWords]:
        return [encoder.bert for encoder in self.encoders if encoder.bert is not None]

    def base_loss(self, scores: Tensor, positive: Tensor, pairs: Pairs | None = None) -> Tensor:
        if self.options.loss == "triplet":
            return triplet(scores, positive, self.options.margin, pairs=pairs)
        return contrastive(scores, positive, self.log_tau.exp().clamp(min=0.01), pairs)

    def losses(self, batch: Batch, hardest: bool) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """What a training step adds up, its scores [B,C], captions in order of length, and the hinge of the hardest negatives.

        Args:
            hardest: whether that hinge is part of the loss.
        """
        options = self.options
        images = self.model.encode_image(batch.regions)
        lengths = batch.sentences.mask.sum(1)
        order, count = lengths.argsort(stable=True), len(lengths)
        words: list[int] = lengths[order].tolist()  # once: a GPU is waited for each time
        sentences, image = batch.sentences.take(order, words[-1]), batch.image[order]
        rebuilt = self.model if isinstance(self.model, RACG) and self.model.decode_word is not None else None
        whole = sentences.words
        if rebuilt:
            sentences, decoded = rebuilt.hide_words(sentences)
        texts = self.model.encode_text(sentences)
        world = self.trainer.world_size if options.gather_negatives else 1
        # SAF normalises over what it is given at once, which no device may change
        at_once = GPU_CHUNK if lengths.is_cuda and isinstance(self.model, RACG) else CHUNK
        if world == 1:
            columns = []
            for start in range(0, count, at_once):  # captions of like length together, or half of the work is on padding
                chunk = slice(start, min(start + at_once, count))
                columns.append(self.model.similarities(images, texts.take(chunk, words[chunk.stop - 1])))
            terms = torch.cat(columns, -1)
            positive = image == torch.arange(len(batch.rows), device=image.device)[:, None]
        else:
            terms, positive = all_pairs(self, self.model.similarities, images, texts, batch.rows, batch.rows[image], at_once)
        pairs = positive.nonzero(as_tuple=True)
        objectives = self.model.objectives(terms)
        scores = torch.stack(objectives).sum(0) if len(objectives) > 1 else objectives[0]
        parts = {"loss/all": torch.stack([self.base_loss(part, positive, pairs) for part in objectives]).sum()}
        if options.term_weight and len(terms) > 1:
            alone = torch.stack([self.base_loss(term, positive, pairs) for term in terms])
            parts["loss/terms"] = options.term_weight * alone.mean()
        if rebuilt:
            loss, number = rebuilt.reconstruct(images, image, texts, decoded, whole)
            if world > 1:
                number = gather(self, number[None]).sum() / world  # the gradient is a mean over the processes
            parts["loss/reconstruction"] = options.reconstruction_weight * loss / number.clamp(min=1)
        hinge = triplet(scores, positive, options.margin, hardest=True, pairs=pairs)
        if hardest:
            parts["loss/hardest"] = options.hard_weight * hinge
        return parts, scores, hinge

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        hard = self.global_step >= self.options.hard_after * self.trainer.estimated_stepping_batches
        parts, scores, hinge = self.losses(batch, hard)
        loss = torch.stack(list(parts.values())).sum()
        if not loss.isfinite():
            raise DataError(
                f"training: step {self.global_step}: expected a finite loss, got {loss.item()}; lower model.lr or check the features"
            )
        self.log_dict(
            {"loss": loss, "hinge": hinge, "tau": self.log_tau.exp(), **parts}, prog_bar=False, batch_size=len(batch.rows)
        )
        self.log("train", loss, prog_bar=True, logger=False, batch_size=len(batch.rows))
        self.watch(scores.detach(), hinge.detach())
        return loss

    def watch(self, scores: Tensor, hinge: Tensor) -> None:
        """Stop a training that has collapsed: at two looks, 50 steps apart and after the warm-up, in which scores are alike anyway."""
        if self.global_step % 50 or self.global_step < 2 * self.options.warmup * self.trainer.estimated_stepping_batches:
            return
        words = collapse(scores, hinge, self.options.margin)
        if words and self.collapsed:
            raise DataError(f"training: step {self.global_step}: {words}")
        self.collapsed = words is not None

    def optimizer(self, fused: bool) -> torch.optim.AdamW:
        bert = [weight for words in self.berts for weight in words.bert.parameters()]
        known, groups = {id(weight) for weight in bert}, []
        for weights, lr in (
            ([weight for weight in self.parameters() if id(weight) not in known], self.options.lr),
            (bert, self.options.lr * self.options.bert_lr),
        ):
            learnt = [weight for weight in weights if weight.requires_grad]
            for decay, wide in ((self.options.weight_decay, True), (0.0, False)):
                if some := [weight for weight in learnt if (weight.dim() > 1) == wide]:
                    groups.append({"params": some, "weight_decay": decay, "lr": lr})
        return torch.optim.AdamW(groups, lr=self.options.lr, fused=fused)

    def configure_optimizers(self) -> Any:
        # Lightning clips no gradients of a fused optimiser under AMP
        optimizer = self.optimizer(fused="mixed" not in str(self.trainer.precision))
        steps = self.trainer.estimated_stepping_batches
        warmup = max(1, round(self.options.warmup * steps))

        def rate(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # ---- what the trainer asks before, between and after ----

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and self.options.text_source and data.text_source != self.options.text_source:
            raise DataError(
                f"{data.root}: expected text by {self.options.text_source}, with which this model was trained, got {data.text_source}; "
                f"use the data set and parser of its training"
            )

    def on_fit_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and not self.restored:
            self.read_text_encoder(data.vocabulary.words)
            if isinstance(self.model, RACG) and self.model.facets:
                regions = data.split("fit").regions(np.arange(min(FACETS_OF, len(data.split("fit")))))
                self.model.read_facets(regions.features[regions.mask])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """One process that goes on draws what it would have drawn, had it not been broken off at the end of an epoch."""
        states, self.random = self.random, []
        if states and self.trainer.world_size == 1:
            torch.set_rng_state(states[0].cpu())
            torch.empty((), dtype=torch.int64).random_()  # as torch's DataLoader does where an epoch begins
            for device, state in enumerate(states[1 : 1 + torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state.cpu(), device)

    def read_text_encoder(self, words: Sequence[str]) -> None:
        """What a training starts from besides random weights: word vectors of a file, or a pre-trained BERT."""
        for bert in self.berts:
            bert.start(self.options.text_encoder, words)
        if self.options.word_vectors:
            path = Path(self.options.word_vectors)
            vectors, which = read_vectors(path, words, self.options.word_dim)
            with torch.no_grad():
                for encoder in self.encoders:
                    encoder.word.weight[which] = vectors
            if self.trainer.is_global_zero:
                print(f"{path}: vectors of {len(which):,} of {len(words) - 2:,} words")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take away the mark of Lightning's command line, without which the checkpoint could not be loaded; keep the random state."""
        checkpoint["hyper_parameters"].pop("_instantiator", None)
        checkpoint["random"] = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.restored, self.random = True, checkpoint.get("random", [])
        trained = checkpoint.get("hyper_parameters", {}).get("text_source", "")
        if trained and self.options.text_source and trained != self.options.text_source:
            raise DataError(
                f"checkpoint: expected text by {trained}, with which it was trained, "
                f"got {self.options.text_source}; use its data set and parser"
            )

    def evaluate(self, stage: str) -> dict[str, float]:
        """Recalls of the split whose items were just encoded, over all processes; {} where Lightning only looks whether all runs."""
        seen, self.seen = self.seen, Seen()
        if self.trainer.sanity_checking or self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # a few batches are no split
            return {}
        split = self.trainer.datamodule.split(stage)  # type: ignore[attr-defined]
        candidates = self.two_stage if stage == "test" else 0
        several = partial(gather, self) if self.trainer.world_size > 1 else None
        progress = self.trainer.is_global_zero
        self.evaluated = evaluate(self.model, seen, split, self.score_memory_mb, candidates, several, progress)
        return self.evaluated.metrics

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen.add(self.model, batch)

    def on_validation_epoch_end(self) -> None:
        if metrics := self.evaluate("validate"):
            self.log_dict({f"dev/{name}": value for name, value in metrics.items()}, sync_dist=False)
            self.log("rsum", metrics["rsum"], prog_bar=True, logger=False)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen.add(self.model, batch)

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.evaluate("test").items()})

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen.add(self.model, batch)

    def on_predict_epoch_end(self) -> None:
        self.evaluate("predict")
