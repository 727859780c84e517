"""BERT as the text encoder: `--model.text_encoder NAME`, with transformers, an extra (`pip install racg_pl[bert]`).

After Devlin et al., NAACL 2019, arXiv 1810.04805, as VSE∞ (Chen et al., CVPR 2021) and many others take it for word nodes. Graphs need
one node a word of the parse, so that what BERT says of the pieces of a word is averaged. BERT splits a word without regard to its
neighbours: a table of pieces by word, filled once from the vocabulary, is all that it needs of the text, and goes with the checkpoint,
which afterwards needs neither the tokenizer nor any network.

Letters: C captions, W words, D node width, V words of the vocabulary, P pieces of the longest caption, L width of BERT.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from racg_pl.errors import DataError

PIECES = 12  # of one word, at most: what is beyond says nothing new
NONE = -1  # no piece
T = TypeVar("T")


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise DataError(
            "model: expected transformers for a text_encoder other than bigru, got none; pip install racg_pl[bert]"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _read(name: str, what: str, read: Callable[[], T]) -> T:
    """Raises: DataError where transformers cannot read a part of a BERT, for which it raises almost anything."""
    try:
        return read()
    except Exception as error:
        got = " ".join(str(error).split())[:200]
        raise DataError(
            f"model: text_encoder: expected bigru, or {what} of a BERT by the name or folder {name!r}, got: {got}; "
            f"name another, or download it first where there is a network"
        ) from error


def read_config(name: str) -> str:
    """What a BERT is made like, as JSON. Raises: DataError where it is none."""
    config = _read(name, "the config.json", lambda: _transformers().AutoConfig.from_pretrained(name))
    if config.model_type != "bert":
        raise DataError(f"model: text_encoder: expected a BERT, got {name!r}, which is a {config.model_type}; name a BERT")
    return json.dumps(config.to_diff_dict(), sort_keys=True)


class BertWords(nn.Module):
    """Words of captions as BERT reads them, made of the JSON of its configuration with random weights; `start` fills them.

    Args:
        config: by `read_config`.  vocabulary: V.  dim: D.
    Shapes: words int64 [C,W], mask [C,W] → [C,W,D]; of words of which no piece lies within BERT's longest sentence, no more than a bias.
    """

    pieces: Tensor
    marks: Tensor

    def __init__(self, config: str, vocabulary: int, dim: int) -> None:
        super().__init__()
        transformers = _transformers()
        made = transformers.BertConfig.from_dict(json.loads(config))
        self.bert = transformers.BertModel(made, add_pooling_layer=False)
        self.out = nn.Linear(made.hidden_size, dim)
        self.longest = made.max_position_embeddings
        self.register_buffer("pieces", torch.full((vocabulary, PIECES), NONE, dtype=torch.int32))
        self.register_buffer("marks", torch.zeros(2, dtype=torch.int32))  # what begins and ends a sentence

    def start(self, name: str, words: Sequence[str]) -> None:
        """Take the weights of a pre-trained BERT, and the pieces of the vocabulary, of which the first two pad and are unknown.

        Weights are read from safetensors alone, never from a pickle.
        """
        transformers = _transformers()
        tokenizer = _read(name, "the vocabulary", lambda: transformers.AutoTokenizer.from_pretrained(name))
        trained = _read(
            name,
            "the model.safetensors",
            lambda: transformers.BertModel.from_pretrained(name, add_pooling_layer=False, use_safetensors=True),
        )
        self.bert.load_state_dict(trained.state_dict())
        unknown = [tokenizer.unk_token_id]
        split = tokenizer(list(words[2:]), add_special_tokens=False)["input_ids"] if len(words) > 2 else []
        table = [[], unknown, *(pieces[:PIECES] or unknown for pieces in split)]
        self.marks.copy_(torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id]))
        self.pieces.fill_(NONE)
        for row, pieces in zip(self.pieces, table, strict=True):
            row[: len(pieces)] = torch.tensor(pieces, dtype=torch.int32)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        pieces = self.pieces[words].masked_fill(~mask[..., None], NONE).flatten(1)  # [C,W·PIECES]
        real = pieces != NONE
        place = real.cumsum(1)  # in the sentence, whose first is its mark
        caption, slot = (real & (place < self.longest - 1)).nonzero(as_tuple=True)
        count = place.amax(1).clamp(max=self.longest - 2)
        sentence = torch.arange(int(count.max()) + 2, device=words.device)
        ids = self.marks[1] * (sentence == count[:, None] + 1) + self.marks[0] * (sentence == 0)  # others 0: not attended to
        at = place[caption, slot]
        ids[caption, at] = pieces[caption, slot]
        attended = (sentence <= count[:, None] + 1).long()
        said = self.bert(input_ids=ids.long(), attention_mask=attended).last_hidden_state[caption, at]
        owner = caption * words.shape[1] + slot // PIECES
        number = owner.bincount(minlength=words.numel()).clamp(min=1)
        mean = said.new_zeros(words.numel(), said.shape[1]).index_add(0, owner, said) / number[:, None]
        return self.out(mean).view(*words.shape, -1)
