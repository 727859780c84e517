"""Text encoders by choice: word vectors from a text file, and BERT, here a small one of random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from conftest import small
from racg_pl.bert import PIECES, BertWords, read_config
from racg_pl.cli import main
from racg_pl.errors import DataError
from racg_pl.export import export
from racg_pl.model import RACG
from racg_pl.module import RACGModule
from racg_pl.text import Vocabulary
from racg_pl.training import load_module, read_checkpoint, run
from racg_pl.word_vectors import read_vectors

KEEP = ("--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.save_last=true")
WORDS = ("<pad>", "<unk>", "a", "ball", "beside", "tree")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers, 16 wide, that splits words into letters and knows the whole of a few."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    letters = [chr(ord("a") + i) for i in range(26)]
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ball", "tree", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(known) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(known), max_position_embeddings=24, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(bert: Path) -> BertWords:
    torch.manual_seed(1)
    encoder = BertWords(read_config(str(bert)), len(WORDS), 8).eval()
    encoder.start(str(bert), WORDS)
    return encoder


def sentences(*rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    words = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, ids in zip(words, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return words, words > 0


# ---- BERT ----


def test_a_word_is_the_mean_of_its_pieces_as_the_tokenizer_splits_the_sentence(bert: Path, encoder: BertWords):
    from transformers import AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(bert)
    model = BertModel.from_pretrained(bert, add_pooling_layer=False).eval()
    given = tokenizer(["a", "ball", "beside"], is_split_into_words=True, return_tensors="pt")
    said = model(**given).last_hidden_state[0]
    owners = given.word_ids()
    for place in range(3):
        mine = [i for i, owner in enumerate(owners) if owner == place]
        assert len(mine) == (6 if place == 2 else 1)
        wanted = encoder.out(said[mine].mean(0))
        torch.testing.assert_close(encoder(*sentences([2, 3, 4]))[0, place], wanted, rtol=1e-5, atol=1e-5)


def test_padding_and_other_captions_change_nothing(encoder: BertWords):
    alone, together = encoder(*sentences([2, 5, 1])), encoder(*sentences([4, 4, 3, 2], [2, 5, 1]))
    torch.testing.assert_close(together[1, :3], alone[0], rtol=1e-5, atol=1e-5)


def test_words_hear_one_another(encoder: BertWords):
    here, there = encoder(*sentences([2, 3, 5])), encoder(*sentences([2, 3, 4]))
    assert (here[0, 1] - there[0, 1]).abs().max() > 1e-4


def test_a_caption_longer_than_bert_reads_keeps_what_fits(encoder: BertWords):
    words = [4] * 3 + [3] * 6  # 6 pieces each, then one each: 24 of 22
    found = encoder(*sentences(words))[0]
    short = encoder(*sentences(words[:7]))[0]
    torch.testing.assert_close(found[:7], short, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[7:], encoder.out.bias.expand(2, -1))


def test_pieces_are_those_of_the_vocabulary(encoder: BertWords, bert: Path):
    assert (encoder.pieces[0] == -1).all()  # padding
    assert encoder.pieces[1].tolist() == [1, *[-1] * (PIECES - 1)]  # [UNK]
    assert encoder.pieces[3].tolist() == [5, *[-1] * (PIECES - 1)]
    assert (encoder.pieces[4] >= 0).sum() == 6
    long = BertWords(read_config(str(bert)), 3, 8)
    long.start(str(bert), ("<pad>", "<unk>", "b" * 40))
    assert (long.pieces[2] >= 0).all()


@pytest.fixture(scope="module")
def trained(scenes: Path, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a RACG with a BERT whose folder is gone after."""
    folder = tmp_path_factory.mktemp("with_bert")
    here = Path(shutil.copytree(bert, folder / "bert"))
    run(["fit", *small(scenes, folder / "run"), *KEEP, f"--model.text_encoder={here}"])
    shutil.rmtree(here)
    return folder / "run"


def test_training_starts_from_the_pretrained_weights_and_moves_them(trained: Path, bert: Path):
    from transformers import BertModel

    before = BertModel.from_pretrained(bert, add_pooling_layer=False).state_dict()
    after = read_checkpoint(trained / "checkpoints" / "last.ckpt")["state_dict"]
    for name, weight in before.items():
        moved = (after[f"model.bert.bert.{name}"] - weight).abs().max()
        assert moved < 0.02, name
    assert max((after[f"model.bert.bert.{name}"] - weight).abs().max() for name, weight in before.items()) > 0
    assert not any(name.startswith(("model.word.", "model.gru.")) for name in after)


def test_separate_embeddings_have_a_bert_of_their_own(bert: Path):
    """Both start from the pre-trained weights, learn at BERT's rate, and rest where it is 0."""
    options = {"text_encoder": str(bert), "separate_embeddings": True, "dim": 16, "align_dim": 8, "relation_dim": 16}
    module = RACGModule(12, 3, **options)
    module.read_text_encoder(("<pad>", "<unk>", "dog"))
    pairs = list(zip(module.model.bert.bert.parameters(), module.model.embedder.bert.bert.parameters(), strict=True))
    assert all(torch.equal(one, two) and one is not two for one, two in pairs)
    slow = {id(weight) for group in module.optimizer(False).param_groups for weight in group["params"] if group["lr"] < 1e-4}
    assert slow == {id(weight) for pair in pairs for weight in pair}
    rests = RACGModule(12, 3, **options, bert_lr=0.0)
    for encoder in rests.encoders:
        assert not any(weight.requires_grad for weight in encoder.bert.bert.parameters())


def test_a_checkpoint_needs_no_bert_to_be_tested_exported_and_loaded(trained: Path, scenes: Path, tmp_path: Path):
    checkpoint = trained / "checkpoints" / "last.ckpt"
    run(["test", *small(scenes, tmp_path / "run"), f"--ckpt_path={checkpoint}"])
    fit, tested = (json.loads(path.read_text()) for path in (trained / "fit.json", tmp_path / "run" / "test.json"))
    assert tested["weights"] == fit["weights"]
    export(checkpoint, tmp_path / "model")
    model, module = RACG.from_pretrained(tmp_path / "model"), load_module(checkpoint)
    assert json.loads(model.config["bert_config"])["hidden_size"] == 16
    for name, weight in module.model.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(model.state_dict()[name], weight), name


def test_training_that_goes_on_does_not_begin_bert_anew(
    trained: Path, scenes: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(BertWords, "start", lambda *_: pytest.fail("begun anew"))
    run(["fit", *small(scenes, trained, epochs=2), *KEEP, f"--model.text_encoder={bert}", "--ckpt_path=last"])
    assert json.loads((trained / "fit.json").read_text())["config"]["trainer"]["max_epochs"] == 2


def test_a_peer_learns_with_a_bert_that_does_not(scenes: Path, bert: Path, tmp_path: Path):
    of_racg = ("--model.align_dim", "--model.relation_dim", "--model.heads")
    options = [option for option in small(scenes, tmp_path) if not option.startswith(of_racg)]
    run(["fit", *options, *KEEP, "--model.method=scan_t2i", f"--model.text_encoder={bert}", "--model.bert_lr=0"])
    from transformers import BertModel

    before = BertModel.from_pretrained(bert, add_pooling_layer=False).state_dict()
    after = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(after[f"model.bert.bert.{name}"], weight) for name, weight in before.items())


def test_bert_learns_at_its_share_of_the_rate(trained: Path):
    module = load_module(trained / "checkpoints" / "last.ckpt")
    groups = module.optimizer(fused=False).param_groups
    bert = {id(weight) for weight in module.model.bert.bert.parameters()}  # type: ignore[attr-defined]
    for group in groups:
        share = 0.1 if id(group["params"][0]) in bert else 1.0
        assert group["lr"] == pytest.approx(share * module.options.lr)
        assert all((id(weight) in bert) == (share < 1) for weight in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model.text_encoder=bigru2"], "text_encoder: expected bigru, or the config.json of a BERT"),
        (["--model.text_encoder={tmp}"], "text_encoder: expected bigru, or the config.json of a BERT"),
        (["--model.text_encoder={other}"], "expected a BERT, got"),
        (["--model.text_encoder={bert}", "--model.word_vectors=x.txt"], "expected no word_vectors with a BERT"),
        (["--model.text_encoder={empty}"], "the model.safetensors of a BERT"),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str], says: str, scenes: Path, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    other, empty = tmp_path / "other", tmp_path / "empty"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "distilbert"}')
    shutil.copytree(bert, empty)
    (empty / "model.safetensors").unlink()
    torch.save({}, empty / "pytorch_model.bin")  # a pickle is not read in its place
    given = [option.format(tmp=tmp_path, other=other, bert=bert, empty=empty) for option in options]
    assert main(["fit", *small(scenes, tmp_path / "run"), *given]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.strip().splitlines()) == 1


# ---- word vectors ----

GLOVE = "the 9 9\nball 1 2\n. . . 3 4\nball 7 7\ntree -1.5 2e-1\n"


@pytest.mark.parametrize("content", [GLOVE, f"5 2\n{GLOVE}"], ids=["glove", "fasttext"])
def test_vectors_of_known_words_are_read(content: str, tmp_path: Path):
    path = tmp_path / "vectors.txt"
    path.write_text(content, encoding="utf-8")
    vectors, which = read_vectors(path, (*WORDS, "."), 2)
    assert which.tolist() == [3, 5]
    assert torch.equal(vectors, torch.tensor([[1.0, 2.0], [-1.5, 0.2]]))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "expected word vectors in a text file, got: [Errno 2] No such file"),
        ("ball 1 2 3\n", "line 1: expected a word and 2 numbers, as many as the model's word_dim, got 3 numbers"),
        ("the 1 2\nball 1\n", "line 2: expected a word and 2 numbers, as many as the model's word_dim, got 1 numbers"),
        (
            "ball 1 x\n",
            "line 1: expected a word and 2 numbers, as many as the model's word_dim, got one that is none or not finite",
        ),
        ("ball 1 nan\n", "got one that is none or not finite"),
        ("chien 1 2\n", "got none of the 6 words of the vocabulary"),
        ("", "got none of the 6 words of the vocabulary"),
    ],
)
def test_a_bad_file_is_one_line(content: str | None, says: str, tmp_path: Path):
    path = tmp_path / "vectors.txt"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_vectors(path, WORDS, 2)
    assert str(path) in str(error.value)
    assert says in str(error.value)


def test_training_starts_from_the_vectors(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    vocabulary = Vocabulary.load(scenes / "vocab.json")
    path = tmp_path / "vectors.txt"
    path.write_text(f"{vocabulary.words[5]} {' '.join(['7'] * 8)}\n", encoding="utf-8")
    options = [*KEEP, f"--model.word_vectors={path}", "--model.separate_embeddings=true"]
    run(["fit", *small(scenes, tmp_path / "run", epochs=1), *options])
    assert f"vectors of 1 of {len(vocabulary) - 2} words" in capsys.readouterr().out
    path.unlink()  # a run that goes on does not need the file
    trained = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    for weight in (trained["model.word.weight"], trained["model.embedder.word.weight"]):
        assert (weight[5] - 7).abs().max() < 0.1
        assert weight[6].abs().max() < 1
    run(["fit", *small(scenes, tmp_path / "run", epochs=2), *options, "--ckpt_path=last"])
