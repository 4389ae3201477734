"""The neural taggers: learning, resuming, saving, and sentences that are empty, long or odd."""

import json
import random
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from tests.tiny_ner import make_corpus, make_encoder
from utils.files import sha256_of, stream_seed
from utils.ner import neural, training
from utils.ner.bilstm_crf import BiLSTMCRFTagger
from utils.ner.encoders import save_encoder
from utils.ner.evaluation import evaluate
from utils.ner.features import SHAPES, shape_of
from utils.ner.lexicons import Lexicon
from utils.ner.sentence import Entity, Sentence
from utils.ner.tagger import entity_confidence, load_tagger
from utils.ner.training import Recipe, cut_batches, epoch_batches
from utils.ner.transformer import TransformerTagger, align, cut_windows

TRAIN, DEV = make_corpus(), make_corpus(20, seed=1)
ODD = [
    "",
    " ",
    "\0",
    "a\0b",
    "\x07 \x07",
    "e\u0301 \u202e x \U0001f9ec β-catenin",
    "\ud800 lone",
    "x" * 500,
    "mutated BRC7 causes severe hepatitis",
]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def make(kind, encoder, **options):
    options = {"epochs": 2, "batch_size": 8, "device": "cpu", "progress": False, **options}
    if kind == "bilstm":
        return BiLSTMCRFTagger(**{"vectors": None, "hidden": 16, "learning_rate": 1e-2, **options})
    crf = kind == "transformer-crf"
    return TransformerTagger(
        **{"encoder": encoder, "crf": crf, "precision": "no", "learning_rate": 3e-3, "new_rate": 3.0, **options}
    )


KINDS = pytest.mark.parametrize("kind", ["bilstm", "transformer", "transformer-crf"])


def fitted(kind, encoder, folder=None, **options):
    return make(kind, encoder, **options).fit(TRAIN, DEV, folder)


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
    for one, bounds in zip(found, entity_confidence(tagger, found)):
        np.testing.assert_allclose([entity.score for entity in one.entities], bounds[:, 1], rtol=1e-3)
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
        one, *others = (make(kind, encoder, batch_size=16, epochs=1).fit(long) for _ in range(4))
    finally:
        torch.set_num_threads(threads)
    for other in others:
        assert_same(one, other)


def interrupt_after(monkeypatch, steps, name="autocast"):
    """Ctrl-C in the step behind so many: when its loss is computed, or while the weights move."""
    whole, calls = getattr(training, name), []

    def interrupted(*given):
        calls.append(given)
        if len(calls) > steps:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(training, name, interrupted)


@KINDS
@pytest.mark.parametrize("steps", [3, 10])  # in the first epoch, in the second
def test_an_interrupted_training_goes_on_bit_for_bit(kind, encoder, tmp_path, monkeypatch, steps):
    whole = fitted(kind, encoder)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, steps)
        fitted(kind, encoder, tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (saved["epoch"], saved["step"]) == divmod(steps, 8)  # nothing of what was done is lost
    torch.rand(3)  # other draws in between do not matter
    resumed = fitted(kind, encoder, tmp_path)
    assert_same(whole, resumed)
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]
    monkeypatch.setattr(training, "autocast", None)  # what is finished is not trained again
    assert_same(whole, fitted(kind, encoder, tmp_path))


def test_fine_tuning_goes_on_where_it_was_interrupted(encoder, tmp_path, monkeypatch):
    fitted("bilstm", encoder).save(tmp_path / "model")

    def tuned(folder=None):
        tagger = load_tagger(tmp_path / "model")
        tagger.progress = False
        return tagger.fine_tune(TRAIN[:30], DEV, folder)

    whole = tuned()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, 5)
        tuned(tmp_path / "state")
    assert_same(whole, tuned(tmp_path / "state"))
    with pytest.raises(ValueError, match="with start 'weights it had', but this training has 'random weights'"):
        fitted("bilstm", encoder).fit(TRAIN[:30], DEV, tmp_path / "state")


def test_half_moved_weights_are_not_saved(encoder, tmp_path, monkeypatch):
    whole = fitted("bilstm", encoder, save_every=2)
    step = torch.optim.AdamW.step
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        calls = []

        def interrupted(optimizer):
            step(optimizer)
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt

        patch.setattr(torch.optim.AdamW, "step", interrupted)
        fitted("bilstm", encoder, tmp_path, save_every=2)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2
    assert_same(whole, fitted("bilstm", encoder, tmp_path, save_every=2))


def test_a_folder_of_another_training_or_a_pickle_is_refused(encoder, tmp_path):
    fitted("bilstm", encoder, tmp_path)
    with pytest.raises(ValueError, match="with learning_rate 0.01, but this training has 0.5; use another folder"):
        fitted("bilstm", encoder, tmp_path, learning_rate=0.5)
    with pytest.raises(ValueError, match="with sentences '"):
        make("bilstm", encoder).fit(TRAIN[1:] + TRAIN[:1], DEV, tmp_path)
    with pytest.raises(ValueError, match="with dev sentences '"):  # the best epoch so far was chosen on others
        make("bilstm", encoder).fit(TRAIN, DEV[1:], tmp_path)
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
    make(kind, encoder, epochs=1).fit([Sentence.from_words(words[:300], [(1, 290, "Long")])])


@KINDS
def test_types_never_seen_and_labels_at_predict_time(kind, encoder):
    new = [Sentence.from_words(["XY1", "grows"], [(0, 1, "Cell-line/β")])]
    tagger = make(kind, encoder).fit(TRAIN, [*DEV, *new])
    assert {tag[2:] for tag in tagger.tags} == {"", "Gene", "Disease"}
    bare = [sentence.with_entities([]) for sentence in [*DEV, *new]]
    assert tagger.predict([*DEV, *new]) == tagger.predict(bare)  # what is given is not looked at
    nothing = make(kind, encoder).fit(bare)  # a corpus without an entity
    assert nothing.tags == ["O"] and not any(one.entities for one in nothing.predict(DEV))
    assert make(kind, encoder).fit(new).tags[1] == "B-Cell-line/β"


@KINDS
def test_going_on_from_other_sentences(kind, encoder):
    tagger = fitted(kind, encoder, epochs=12)
    before = evaluate(DEV, tagger.predict(DEV), resamples=0).f1
    tagger.recipe = Recipe(epochs=1, learning_rate=1e-6)
    tagger.fine_tune(TRAIN[:5])
    assert evaluate(DEV, tagger.predict(DEV), resamples=0).f1 == pytest.approx(before, abs=0.02)
    with pytest.raises(ValueError, match="cannot go on with New: it knows Disease, Gene"):
        tagger.fine_tune([Sentence.from_words(["x"], [(0, 1, "New")])])


def test_an_encoder_begins_another_tagger(encoder, tmp_path):
    tagger = fitted("transformer", encoder)
    save_encoder(tmp_path, tagger.network.encoder, tagger.tokenizer)
    other = make("transformer", tmp_path)
    other.tags = ["O"]
    other._build(TRAIN)
    for name, value in tagger.network.encoder.state_dict().items():
        assert (other.network.encoder.state_dict()[name] == value).all()


def test_nested_and_discontinuous_entities_are_left_out():
    nested = Sentence(
        "severe hepatitis x",
        None,
        [Entity(0, 16, "D"), Entity(7, 16, "D"), Entity(0, 18, "E", fragments=((0, 6), (17, 18)))],
    )
    tagger = make("bilstm", None).fit([nested])
    assert tagger.tags[1] == "B-D"
    off = Sentence("severe", None, [Entity(1, 3, "D")])
    with pytest.raises(ValueError, match="1 of 1 entities cannot be learnt: 1 misaligned"):
        tagger.fine_tune([off])


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
    with pytest.raises(ValueError, match="model.safetensors is damaged or of another tagger"):
        type(tagger).load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    for other, message in (
        ({**config, "tags": config["tags"][:-1]}, "belongs to another network"),
        ({}, "is not whole"),
        ([], "is not whole"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(other))
        with pytest.raises(ValueError, match="config.json is damaged or of another tagger"):
            type(tagger).load(tmp_path)
        sealed = {**header, "files": {**header["files"], "config.json": sha256_of(tmp_path / "config.json")}}
        (tmp_path / "tagger.json").write_text(json.dumps(sealed))
        with pytest.raises(ValueError, match=message):
            type(tagger).load(tmp_path)
        (tmp_path / "tagger.json").write_text(json.dumps(header))


@KINDS
def test_files_of_two_taggers_in_one_folder_are_refused(kind, encoder, tmp_path):
    """Of the same shape, so that nothing else would notice: the types would be exchanged."""
    turned = [
        one.with_entities(replace(e, type={"Gene": "Disease", "Disease": "Gene"}[e.type]) for e in one.entities)
        for one in TRAIN
    ]
    for name, train in (("one", TRAIN), ("other", turned)):
        make(kind, encoder, epochs=1).fit(train).save(tmp_path / name)
    one, other = tmp_path / "one", tmp_path / "other"
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    swapped = [name for name in files if (one / name).read_bytes() != (other / name).read_bytes()]
    assert Path("model.safetensors") in swapped
    for name in swapped:
        whole = (one / name).read_bytes()
        shutil.copy(other / name, one / name)
        with pytest.raises(ValueError, match="is damaged or of another tagger"):
            load_tagger(one)
        (one / name).write_bytes(whole)
    load_tagger(one)


def test_bad_arguments(encoder):
    with pytest.raises(ValueError, match="unknown scheme 'IOB1'"):
        make("bilstm", encoder, scheme="IOB1")
    with pytest.raises(ValueError, match="unknown precision 'fp8'"):
        make("transformer", encoder, precision="fp8")
    with pytest.raises(ValueError, match="unknown pooling 'last'"):
        make("transformer", encoder, pooling="last")
    with pytest.raises(ValueError, match="epochs must be above 0, got 0"):
        make("bilstm", encoder, epochs=0)
    with pytest.raises(TypeError, match="rate_of_learning"):
        make("bilstm", encoder, rate_of_learning=1)
    with pytest.raises(ValueError, match="at least one sentence with a token"):
        make("bilstm", encoder).fit([Sentence("")])
    with pytest.raises(ValueError, match="has learned nothing yet"):
        make("bilstm", encoder).predict(DEV)
    assert make("bilstm", encoder, precision="bf16").precision == "bf16"


@KINDS
def test_divergence_is_reported(kind, encoder):
    with pytest.raises(training.TrainingDiverged, match=r"epoch 1, step \d+: loss .*try a lower learning_rate"):
        fitted(kind, encoder, learning_rate=1e30, new_rate=1e8)


def test_the_best_epoch_is_chosen():
    network, scores = torch.nn.Linear(1, 1), iter([0.1, 0.7, 0.3, 0.2])
    seen = []

    def score():
        seen.append(network.weight.item())
        return next(scores)

    recipe = Recipe(epochs=4, batch_size=1, learning_rate=0.1)
    history = training.train_network(
        network,
        lambda numbers: network(torch.ones(1, 1)).pow(2).mean(),
        [1] * 3,
        recipe,
        score=score,
        device=torch.device("cpu"),
        progress=False,
    )
    assert [one["score"] for one in history] == [0.1, 0.7, 0.3, 0.2]
    assert network.weight.item() == seen[1] != seen[3]


def test_lexicons_are_seen_and_kept(encoder, tmp_path):
    lexicon = Lexicon("genes", ("XQ 7", "ZZ9"))
    tagger = fitted("bilstm", encoder, lexicons=[lexicon])
    assert tagger.features(Sentence("the xq7 and ZZ-9"))[1] == [1, 5, 1, 2, 3, 4]
    tagger.save(tmp_path)
    again = BiLSTMCRFTagger.load(tmp_path)
    assert again.features.lexicons == (lexicon,) and again.predict(DEV) == tagger.predict(DEV)


def test_rate_warms_up_and_falls():
    assert [round(training.rate(done), 6) for done in (0, 0.05, 0.1, 0.55, 1)] == [0, 0.5, 1, 0.5, 0]


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
        (0, 2),
        (2, 3),
        (2, 3),
        (3, 4),
        (3, 4),
    ]
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


def test_transformers_loads_the_plain_network_and_gives_the_same_tags(encoder, tmp_path):
    tagger = fitted("transformer", encoder, epochs=12)
    tagger.save(tmp_path)
    model = AutoModelForTokenClassification.from_pretrained(tmp_path, local_files_only=True)
    assert model.config.id2label == dict(enumerate(tagger.tags)) and type(model).__name__ in model.config.architectures
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for sentence, rows in zip(DEV, tagger.emissions(DEV)):
        (pieces,) = tagger._windows(sentence)
        scores = model(**tokenizer(sentence.text, return_tensors="pt")).logits[0]
        torch.testing.assert_close(scores[pieces.inputs["first"]], rows, rtol=1e-4, atol=1e-4)
    pipe = pipeline("token-classification", str(tmp_path), aggregation_strategy="simple", device="cpu")
    for sentence in tagger.predict(DEV):
        found = [(one["start"], one["end"], one["entity_group"]) for one in pipe(sentence.text)]
        assert found == [entity.span for entity in sentence.entities] != []
    again = load_tagger(tmp_path)
    assert again.predict(DEV) == tagger.predict(DEV)
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    save_encoder(tmp_path / "encoder", again.network.encoder, again.tokenizer)
    assert "tags" not in json.loads((tmp_path / "encoder" / "config.json").read_text())
    make("transformer", tmp_path / "encoder").fit(TRAIN[:9]).save(tmp_path / "again")


@pytest.mark.parametrize(
    "options", [{"crf": True}, {"shapes": True}, {"pooling": "mean"}, {"lexicons": [Lexicon("genes", ("XQ 7",))]}]
)
def test_what_transformers_has_no_network_for_is_saved_in_the_courses_form(options, encoder, tmp_path):
    """Into the folder of a plain one, of which files stay."""
    fitted("transformer", encoder, epochs=1).save(tmp_path)
    tagger = fitted("transformer", encoder, **options)
    tagger.save(tmp_path)
    assert load_tagger(tmp_path).predict(DEV) == tagger.predict(DEV)
    assert "architectures" not in json.loads((tmp_path / "config.json").read_text())
    fitted("transformer", encoder, epochs=1).save(tmp_path)
    load_tagger(tmp_path).predict(DEV)


def test_no_two_uses_of_randomness_have_one_seed(monkeypatch):
    """The order of the batches, the weights and each step draw from streams of their own, at seed 0 too."""
    uses = {}

    def recorded(seed, *use):
        uses[use] = stream_seed(seed, *use)
        return uses[use]

    for module in (neural, training):
        monkeypatch.setattr(module, "stream_seed", recorded)
    make("bilstm", None).fit(TRAIN[:20])
    assert {use[0] for use in uses} == {"weights", "order", "step"} and len({*uses.values(), 0}) == len(uses) + 1
