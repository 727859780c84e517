"""Which regions of its picture each word of a caption attends to.

A method has such weights when its model has a method `attend(images, texts)`, of items as its own `encode_image` and `encode_text`
encode them, image k with caption k, that returns weights [K,W,R] which sum to 1 over the real regions of a real word and are 0
elsewhere. RACG's are α of equation (3). Methods that compare whole pictures with whole sentences have none.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from racg_pl.errors import DataError
from racg_pl.graphs import Regions, Sentences


@runtime_checkable
class Attends(Protocol):
    """A model with weights between words and regions: see the module's docstring."""

    def encode_image(self, images: Regions) -> Any: ...
    def encode_text(self, texts: Sentences) -> Any: ...
    def attend(self, images: Any, texts: Any) -> Tensor: ...


def attention(model: torch.nn.Module, images: Regions, texts: Sentences, image: Tensor | None = None) -> Tensor:
    """Weights of matched pairs, in evaluation mode: [K,W,R].

    Args:
        model: of RACGModule, such as RACG.  images: B pictures.  texts: K captions.
        image: [K], the place of each caption's picture among the B; by default caption k is of picture k.
    Raises: DataError where the method has no such weights.
    """
    if not isinstance(model, Attends):
        raise DataError(f"attention: expected a method whose words attend to regions, got {type(model).__name__}; choose racg")
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            encoded = model.encode_image(images)
            return model.attend(encoded if image is None else encoded.take(image), model.encode_text(texts))
    finally:
        model.train(training)
