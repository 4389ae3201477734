"""The neural taggers: learning, resuming, saving, and sentences that are empty, long or odd."""

import ctypes
import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_ner import make_corpus, make_encoder
from utils.ner.evaluation import evaluate
from utils.ner.lexicons import Lexicon
from utils.ner.sentence import Entity, Sentence
from utils.ner.taggers import training
from utils.ner.taggers.bilstm_crf import BiLSTMCRFTagger
from utils.ner.taggers.recipe import Recipe, cut_batches, epoch_batches
from utils.ner.taggers.registry import load_tagger
from utils.ner.taggers.token_features import SHAPES, shape_of
from utils.ner.taggers.transformer import TransformerTagger, align, cut_windows

TRAIN, DEV = make_corpus(), make_corpus(20, seed=1)
ODD = ["", " ", "\0", "a\0b", "\x07 \x07", "e\u0301 \u202e x \U0001f9ec β-catenin", "\ud800 lone", "x" * 500,
       "mutated BRC7 causes severe hepatitis"]  # fmt: skip


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def make(kind, encoder, **options):
    options = {"epochs": 2, "batch_size": 8, "device": "cpu", **options}
    if kind == "bilstm":
        return BiLSTMCRFTagger(**{"vectors": None, "hidden": 16, "learning_rate": 1e-2, **options})
    crf = kind == "transformer-crf"
    return TransformerTagger(
        **{"encoder": encoder, "crf": crf, "precision": "no", "learning_rate": 3e-3, "new_rate": 3.0, **options}
    )


KINDS = pytest.mark.parametrize("kind", ["bilstm", "transformer", "transformer-crf"])


def fitted(kind, encoder, folder=None, **options):
    return make(kind, encoder, **options).fit(TRAIN, DEV, folder=folder, progress=False)


def weights(tagger):
    return tagger.network.state_dict()


def assert_same(one, other):
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=0, atol=0, msg=name)


@KINDS
def test_learns_saves_and_loads(kind, encoder, tmp_path):
    tagger = fitted(kind, encoder, epochs=12)
    found = tagger.predict(DEV)
    assert evaluate(DEV, found, resamples=0).f1 > 0.9
    assert [one["epoch"] for one in tagger.history] == list(range(1, 13))
    tagger.save(tmp_path / "model")
    assert not [path for path in (tmp_path / "model").rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".py")]
    again = load_tagger(tmp_path / "model")
    assert type(again) is type(tagger) and again.predict(DEV) == found and again.tags == tagger.tags
    again.precision = "no"
    assert all((a == b).all() for a, b in zip(tagger.predict_proba(DEV), again.predict_proba(DEV)))


def test_masks_pieces_in_training_only_and_never_special_ones(encoder, monkeypatch):
    tagger = fitted("transformer", encoder, piece_dropout=0.5)
    read = []
    whole = tagger.network.encoder.forward
    monkeypatch.setattr(tagger.network.encoder, "forward", lambda **batch: read.append(batch) or whole(**batch))
    batch = tagger._batch([window for one in TRAIN for window in tagger._windows(one)])
    for mode in (tagger.network.eval, tagger.network.train):
        mode()(batch)
    untouched, masked = (one["input_ids"] for one in read)
    assert (untouched == batch["ids"]).all()
    ordinary = batch["attention"].bool() & ~torch.isin(batch["ids"], torch.tensor(tagger.tokenizer.all_special_ids))
    assert (masked == batch["ids"])[~ordinary].all()
    changed = masked[ordinary] != batch["ids"][ordinary]
    assert (masked[ordinary][changed] == tagger.tokenizer.mask_token_id).all()
    assert changed.float().mean().item() == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ValueError, match="0 <= piece_dropout < 1, got 1"):
        make("transformer", encoder, piece_dropout=1)


@KINDS
def test_seeded(kind, encoder):
    torch.manual_seed(5)
    one = fitted(kind, encoder)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert after == torch.rand(1)  # training leaves the caller's generator as it was
    assert_same(one, fitted(kind, encoder))
    other = fitted(kind, encoder, seed=1)
    assert any((value != weights(other)[name]).any() for name, value in weights(one).items())


@KINDS
def test_seeded_with_several_threads(kind, encoder):
    """Gradients of one word in many places are added up in the same order, whichever thread is the first."""
    long = [Sentence.from_words(["the", "p53"] * 40, [(1, 2, "Gene")])] * 32
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        one, *others = (make(kind, encoder, batch_size=16, epochs=1).fit(long, progress=False) for _ in range(4))
    finally:
        torch.set_num_threads(threads)
    for other in others:
        assert_same(one, other)


@KINDS
@pytest.mark.parametrize("stop_after", [3, 10])  # in the first epoch, in the second
def test_an_interrupted_training_goes_on_bit_for_bit(kind, encoder, tmp_path, monkeypatch, capsys, stop_after):
    whole = fitted(kind, encoder)
    calls, step = [], training._Run.one_step

    def interrupted(run, *given):
        calls.append(run.step)
        if len(calls) > stop_after:
            raise KeyboardInterrupt
        step(run, *given)

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "one_step", interrupted)
        half = fitted(kind, encoder, tmp_path, save_every=2)
    assert half.interrupted and not whole.interrupted
    assert len(half.history) == stop_after // 8
    kept = "best one, epoch 1" if half.history else "last step"
    printed = capsys.readouterr().out
    assert f"kept the weights of the {kept}" in printed and "checkpoint.pt" in printed
    half.predict(DEV)
    resumed = fitted(kind, encoder, tmp_path, save_every=2)
    assert_same(whole, resumed)
    assert [one["loss"] for one in resumed.history] == [one["loss"] for one in whole.history]
    monkeypatch.setattr(training._Run, "one_step", None)  # what is finished is not trained again
    assert_same(whole, fitted(kind, encoder, tmp_path, save_every=2))


def test_a_folder_of_another_training_or_a_pickle_is_refused(encoder, tmp_path):
    fitted("bilstm", encoder, tmp_path)
    with pytest.raises(ValueError, match="with learning_rate 0.01, this one has 0.5; use another folder"):
        fitted("bilstm", encoder, tmp_path, learning_rate=0.5)
    with pytest.raises(ValueError, match="with sentences '"):
        make("bilstm", encoder).fit(TRAIN[1:] + TRAIN[:1], DEV, folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="with dev sentences '"):  # the best epoch so far was chosen on others
        make("bilstm", encoder).fit(TRAIN, DEV[1:], folder=tmp_path, progress=False)
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    for content, message in ((b"no such file", "was refused: it is not a training"), (whole[:-2000], "is cut short")):
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(ValueError, match=f"checkpoint.pt {message}"):
            fitted("bilstm", encoder, tmp_path)
    torch.save({"x": Recipe}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="was refused: it is not a training state .* could run code"):
        fitted("bilstm", encoder, tmp_path)


@KINDS
def test_odd_sentences(kind, encoder):
    tagger = fitted(kind, encoder)
    sentences = [Sentence(text) for text in ODD]
    found = tagger.predict(sentences)
    assert [one.text for one in found] == ODD
    assert [one.entities for one in tagger.predict([*sentences, Sentence("mice " * 40)])[:-1]] == [
        one.entities for one in found
    ]
    for sentence, rows in zip(sentences, tagger.predict_proba(sentences)):
        assert rows.shape == (len(sentence.tokens), len(tagger.tags))
        np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-4)
    assert tagger.predict([]) == [] and tagger.predict_proba([]) == []


@KINDS
def test_batches_and_padding_do_not_matter(kind, encoder):
    tagger = fitted(kind, encoder)
    mixed = [*DEV, Sentence("mutated TPX3 " * 10)]
    for sentence, together in zip(mixed, tagger.emissions(mixed)):
        torch.testing.assert_close(tagger.emissions([sentence])[0], together, rtol=1e-4, atol=1e-4)


@KINDS
def test_ten_thousand_tokens(kind, encoder):
    tagger = fitted(kind, encoder)
    words = [word for sentence in make_corpus(1700, seed=2) for word in sentence.words][:10_000]
    (found,) = tagger.predict([Sentence.from_words(words)])
    assert len(found.tokens) == 10_000
    assert tagger.emissions([found])[0].shape == (10_000, len(tagger.tags))
    make(kind, encoder, epochs=1).fit([Sentence.from_words(words[:300], [(1, 290, "Long")])], progress=False)


@KINDS
def test_types_never_seen_and_labels_at_predict_time(kind, encoder):
    new = [Sentence.from_words(["XY1", "grows"], [(0, 1, "Cell-line/β")])]
    tagger = make(kind, encoder).fit(TRAIN, [*DEV, *new], progress=False)
    assert {tag[2:] for tag in tagger.tags} == {"", "Gene", "Disease"}
    bare = [sentence.with_entities([]) for sentence in [*DEV, *new]]
    assert tagger.predict([*DEV, *new]) == tagger.predict(bare)  # what is given is not looked at
    nothing = make(kind, encoder).fit(bare, progress=False)  # a corpus without an entity
    assert nothing.tags == ["O"] and not any(one.entities for one in nothing.predict(DEV))
    assert make(kind, encoder).fit(new, progress=False).tags[1] == "B-Cell-line/β"


@KINDS
def test_going_on_from_other_sentences(kind, encoder):
    tagger = fitted(kind, encoder, epochs=12)
    before = evaluate(DEV, tagger.predict(DEV), resamples=0).f1
    tagger.recipe = Recipe(epochs=1, learning_rate=1e-6)
    tagger.fit(TRAIN[:5], progress=False, go_on=True)
    assert evaluate(DEV, tagger.predict(DEV), resamples=0).f1 == pytest.approx(before, abs=0.02)
    with pytest.raises(ValueError, match="cannot go on with New: it knows Disease, Gene"):
        tagger.fit([Sentence.from_words(["x"], [(0, 1, "New")])], go_on=True)


def test_an_encoder_begins_another_tagger(encoder, tmp_path):
    tagger = fitted("transformer", encoder)
    tagger.save_encoder(tmp_path)
    other = make("transformer", tmp_path)
    other.tags = ["O"]
    other._build(TRAIN)
    for name, value in tagger.network.encoder.state_dict().items():
        assert (other.network.encoder.state_dict()[name] == value).all()


def test_nested_and_discontinuous_entities_are_left_out():
    nested = Sentence("severe hepatitis x", None, [Entity(0, 16, "D"), Entity(7, 16, "D"),
                                                   Entity(0, 18, "E", fragments=((0, 6), (17, 18)))])  # fmt: skip
    assert make("bilstm", None).fit([nested], progress=False).tags[1] == "B-D"


@KINDS
def test_models_that_cannot_be_loaded(kind, encoder, tmp_path):
    tagger = fitted(kind, encoder)
    tagger.save(tmp_path)
    header = json.loads((tmp_path / "tagger.json").read_text())
    (tmp_path / "tagger.json").write_text(json.dumps({**header, "version": 99}))
    with pytest.raises(ValueError, match="version 99; expected"):
        type(tagger).load(tmp_path)
    (tmp_path / "tagger.json").write_text(json.dumps(header))
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        type(tagger).load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tags": config["tags"][:-1]}))
    with pytest.raises(ValueError, match="belongs to another network"):
        type(tagger).load(tmp_path)
    for broken in ("{", "{}", "[]"):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(ValueError, match="is not whole"):
            type(tagger).load(tmp_path)


def test_bad_arguments(encoder):
    with pytest.raises(ValueError, match="unknown scheme 'IOB1'"):
        make("bilstm", encoder, scheme="IOB1")
    with pytest.raises(ValueError, match="unknown precision 'fp8'"):
        make("transformer", encoder, precision="fp8")
    with pytest.raises(ValueError, match="unknown pooling 'last'"):
        make("transformer", encoder, pooling="last")
    for few in (0, 2):  # no room beside [CLS] and [SEP]
        with pytest.raises(ValueError, match=f"max_pieces must leave room for a piece .*, got {few}"):
            make("transformer", encoder, max_pieces=few).fit(TRAIN, progress=False)
    with pytest.raises(ValueError, match="epochs must be above 0, got 0"):
        make("bilstm", encoder, epochs=0)
    with pytest.raises(ValueError, match="warmup"):
        make("bilstm", encoder, warmup=2)
    with pytest.raises(TypeError, match="rate_of_learning"):
        make("bilstm", encoder, rate_of_learning=1)
    with pytest.raises(ValueError, match="at least one sentence with a token"):
        make("bilstm", encoder).fit([Sentence("")])
    with pytest.raises(ValueError, match="has learned nothing yet"):
        make("bilstm", encoder).predict(DEV)


@KINDS
def test_divergence_is_reported(kind, encoder):
    with pytest.raises(training.TrainingDiverged, match=r"epoch 1, step \d+: loss .*try a lower learning_rate"):
        fitted(kind, encoder, learning_rate=1e30, new_rate=1e8)


def test_the_best_epoch_is_chosen_and_patience_ends_the_training():
    network, scores = torch.nn.Linear(1, 1), iter([0.1, 0.7, 0.3, 0.2, 0.9])
    seen = []

    def score():
        seen.append(network.weight.item())
        return next(scores)

    recipe = Recipe(epochs=5, batch_size=1, learning_rate=0.1, patience=2)
    history, interrupted = training.train_network(
        network, lambda numbers: network(torch.ones(1, 1)).pow(2).mean(), [1] * 3, recipe, score=score,
        device=torch.device("cpu"), progress=False,
    )  # fmt: skip
    assert [one["score"] for one in history] == [0.1, 0.7, 0.3, 0.2] and not interrupted
    assert network.weight.item() == seen[1] != seen[3]


def resident_mib():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc can hand memory back")
def test_freed_memory_between_used_memory_is_handed_back():
    blocks = [bytearray(b"x" * 50_000) for _ in range(4000)]
    del blocks[::2]
    before = resident_mib()
    training.release_memory()
    assert resident_mib() < before - 50  # of 95 MiB that are free
    assert len(blocks) == 2000


def test_lexicons_are_seen_and_kept(encoder, tmp_path):
    lexicon = Lexicon("genes", ("XQ 7", "ZZ9"))
    tagger = fitted("bilstm", encoder, lexicons=[lexicon])
    assert tagger.features(Sentence("the xq7 and ZZ-9"))[1] == [1, 5, 1, 2, 3, 4]
    tagger.save(tmp_path)
    again = BiLSTMCRFTagger.load(tmp_path)
    assert again.features.lexicons == (lexicon,) and again.predict(DEV) == tagger.predict(DEV)


def test_rate_warms_up_and_falls():
    recipe = Recipe(warmup=0.2)
    assert [round(recipe.rate(done), 6) for done in (0, 0.1, 0.2, 0.6, 1)] == [0, 0.5, 1, 0.5, 0]
    assert Recipe(warmup=0).rate(0) == 1


def test_batches_hold_every_example_once_and_bound_their_size():
    draw = random.Random(0)
    lengths = [draw.randint(1, 300) for _ in range(999)]
    recipe = Recipe(batch_size=16, batch_cells=1000, seed=3)
    epochs = [epoch_batches(lengths, recipe, epoch) for epoch in (0, 0, 1)]
    assert epochs[0] == epochs[1] != epochs[2]
    for batches in epochs:
        assert sorted(i for batch in batches for i in batch) == list(range(999))
        assert all(len(batch) <= 16 and len(batch) * max(lengths[i] for i in batch) <= 1000 for batch in batches)
    assert cut_batches([0, 1], [5000, 1], recipe) == [[0], [1]]  # longer than allowed: alone


def test_shapes():
    words = ["was", "Was", "TP", "T", "mRNA", "12", "p53", "-"]
    assert [shape_of(word) for word in words] == list(SHAPES[1:])


def test_alignment():
    #  pieces:  p ##53 | - | (nothing for the third token) | x y in one piece
    assert align([(0, 3), (3, 4), (5, 6), (7, 8), (8, 9)], [(0, 1), (1, 3), (3, 4), (7, 9)]) == [
        (0, 2), (2, 3), (2, 3), (3, 4), (3, 4)]  # fmt: skip
    assert align([(0, 1), (2, 3)], [(2, 3)]) == [(0, 1), (0, 1)]
    assert align([(0, 1)], []) == [(0, 1)]


@pytest.mark.parametrize("limit, overlap", [(1, 0), (5, 2), (10, 3), (1000, 250)])
def test_windows_cover_all_tokens(limit, overlap):
    draw, spans, end = random.Random(1), [], 0
    for _ in range(200):
        count = draw.choice([1, 1, 2, 3, 20])
        spans.append((end, end + count))
        end += count
    windows = cut_windows(spans, limit, overlap)
    assert windows[0][0] == 0 and windows[-1][1] == 200
    for start, stop in windows:
        assert stop == start + 1 or spans[stop - 1][1] - spans[start][0] <= limit
    for (start, stop), (following, last) in pairwise(windows):
        assert start < following <= stop < last
