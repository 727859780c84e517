"""What a training step costs, beside the caption loop's, and how long whole trainings take by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from racg_pl import native
from racg_pl.bench_items import (
    FEATURES,
    REPEATS,
    VOCABULARY,
    apart,
    build,
    device,
    halves,
    interleaved,
    peak_memory,
    some_batch,
)
from racg_pl.bench_rivals import CaptionLoop
from racg_pl.losses import contrastive
from racg_pl.module import RACGModule
from racg_pl.paper.declared import read_tables
from racg_pl.yaml_file import load_yaml

TABLES = Path("experiments", "tables.yaml")
TRAINING_IMAGES = {"flickr30k": 29_000, "coco": 113_287}  # Karpathy's splits, restval in COCO's
EPOCHS = 100  # where neither the tables nor the configuration name any
SHARE = "caption_loop_share_of_gemm"
FLOOR = 0.14  # share of the GEMM rate that SCAN's own loop reaches; below, a ratio to ours would flatter


def train_step(module: RACGModule, size: int, narrow: bool = False) -> Callable[[], object]:
    """The step of `racg fit` in its second half, the hardest negatives in the loss: forward, backward, clipping, optimiser.

    Args: narrow: as under `--trainer.precision bf16-mixed`, whose optimiser is not fused.
    """
    batch, optimizer = some_batch(size), module.optimizer(fused=not narrow)

    def step() -> None:
        with torch.autocast(device().type, torch.bfloat16, enabled=narrow):
            loss = torch.stack(list(module.losses(batch, hardest=True)[0].values())).sum()
        descend(loss, optimizer)

    return step


def rival_step(module: RACGModule, size: int, own_gru: bool = False) -> Callable[[], object]:
    """The same of the field's caption loop, over the same nodes."""
    batch = some_batch(size)
    positive = batch.rows == batch.rows[:, None]
    options = {name: module.options[name] for name in ("objects", "dim", "word_dim", "word_std", "dropout")}
    shares = {"word_dropout": 0.0, "region_dropout": 0.0}
    rival = CaptionLoop(own_gru, feature_dim=FEATURES, vocabulary=VOCABULARY, **options, **shares).to(device())
    optimizer = torch.optim.AdamW(rival.parameters(), lr=module.options.lr, fused=True)
    return lambda: descend(contrastive(rival(batch.regions, batch.sentences), positive), optimizer)


def descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], 2.0)
    optimizer.step()
    optimizer.zero_grad()


def peak(config: Path, size: int) -> float:
    """MiB that a process which trains has resident at most."""
    step = train_step(build(config)[0].train(), size)
    for _ in range(3):
        step()
    return peak_memory()


def training(module: RACGModule, small: bool, config: Path, epochs: dict[str, int], share: float) -> dict[str, Any]:
    """A step of each size in all its parts, in bfloat16 too, beside the caption loop's with torch's GRU, as the field has it, and
    with ours.

    Args: share: of the GEMM rate, that the loop reaches here; below FLOOR, ratios to it are void.
    """
    module.train()
    large, little = (8, 4) if small else (128, 32)
    halved = halves(native.available(next(module.parameters())))
    results: dict[str, Any] = {SHARE: share}
    for size in (little, large):
        narrow = train_step(module, size, narrow=True) if halved else lambda: None
        steps = train_step(module, size), narrow, rival_step(module, size), rival_step(module, size, own_gru=True)
        ours, half, theirs, lent = interleaved(*steps, repeats=2 if small else REPEATS)
        figures: dict[str, Any] = {"s": ours}
        for name, rival in (("vs_caption_loop", theirs), ("vs_caption_loop_on_our_gru", lent)):
            figures[name] = ours / rival if share >= FLOOR else None
        figures |= {"bf16_vs_f32": ours / half if halved else None, "peak_mb": apart(peak, config, size)}
        results |= {f"train_b{32 if size == little else 128}_{name}": value for name, value in figures.items()}
    for name, images in TRAINING_IMAGES.items():
        results |= {f"epochs_{name}": epochs[name], f"hours_{name}": hours(images, epochs[name], results["train_b128_s"])}
    return results


def declared_epochs(config: Path, tables: Path = TABLES) -> dict[str, int]:
    """How long the tables train a configuration on each of TRAINING_IMAGES; as long as it says itself where they do not."""
    own = (load_yaml(config.read_bytes()).get("trainer") or {}).get("max_epochs", EPOCHS)
    epochs = dict.fromkeys(TRAINING_IMAGES, own)
    for declared in read_tables(tables) if tables.exists() else ():
        line = next(line for line in declared.lines if line.name == declared.reference)
        if declared.data in epochs and line.config.resolve() == config.resolve():
            epochs[declared.data] = (line.spec(0).settings.get("trainer") or {}).get("max_epochs", EPOCHS)
    return epochs


def hours(images: int, epochs: int, step_s: float, batch: int = 128) -> float:
    """What the steps of a training take: every epoch shows each image once. Evaluation and waiting for data are not in it."""
    return -(-images // batch) * epochs * step_s / 3600
