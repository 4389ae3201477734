"""DiffusionTagger: spans as points, noise and its pairing, the steps back, and what every tagger has to do."""

import itertools
import json

import pytest
import torch

from tests.tiny_ner import make_corpus, make_encoder, make_nested
from utils.diffusion.sampling import ddim_step, timestep_grid
from utils.ner import diffusion_ner, training
from utils.ner.__main__ import main
from utils.ner.diffusion_ner import DiffusionTagger, decode_spans, encode_spans, mean_places, pair_noise, shown
from utils.ner.evaluation import evaluate
from utils.ner.formats.jsonl import write_jsonl
from utils.ner.sentence import Entity, Sentence
from utils.ner.tagger import entity_confidence, load_tagger, make_tagger

TRAIN, DEV = make_nested(), make_nested(20, seed=1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def make(encoder, **options):
    recipe = dict(epochs=2, batch_size=8, learning_rate=3e-3, new_rate=1.0, device="cpu", precision="no")
    return DiffusionTagger(encoder, **dict(proposals=20, progress=False) | recipe | options)


@pytest.fixture(scope="module")
def trained(encoder):
    return make(encoder, epochs=12).fit(TRAIN, DEV)


def all_spans(n):
    return torch.tensor([(a, b) for a in range(n) for b in range(a + 1, n + 1)])


# -- spans as points ---------------------------------------------------------------------------------------------------


def test_points_by_hand():
    """Of 10 tokens, 2 to 5: centre 3.5, width 3, both a tenth, then from [0, 1] to [-2, 2]."""
    points = encode_spans(torch.tensor([[2, 5], [0, 10], [0, 1]]), torch.tensor(10))
    expected = torch.tensor([[4 * 0.35 - 2, 4 * 0.3 - 2], [0, 2], [-1.8, -1.6]])
    torch.testing.assert_close(points, expected)


@pytest.mark.parametrize("n", [1, 2, 7, 50, 256])
def test_spans_without_noise_come_back(n):
    spans = all_spans(n)
    assert torch.equal(decode_spans(encode_spans(spans, torch.tensor(n)), torch.tensor(n)), spans)


def test_any_point_is_a_span_of_its_sentence():
    lengths = torch.tensor([[1], [5], [40]])
    points = 3 * torch.randn(3, 500, 2, generator=torch.Generator().manual_seed(0))
    spans = decode_spans(points, lengths)
    assert (spans[..., 0] >= 0).all() and (spans[..., 0] < spans[..., 1]).all() and (spans[..., 1] <= lengths).all()
    five = torch.tensor(5)
    for beyond, cut in [((-3, 99), [0, 5]), ((9, 2), [4, 5]), ((3, 3), [3, 4])]:
        assert decode_spans(encode_spans(torch.tensor(beyond), five), five).tolist() == cut


# -- noise -------------------------------------------------------------------------------------------------------------


def test_pairing_is_the_best_of_all_permutations():
    generator = torch.Generator().manual_seed(0)
    for K in (1, 2, 4, 6):
        noise, x_0 = torch.randn(2, 3, K, 2, generator=generator)
        paired = pair_noise(noise, x_0)
        for here, points, ends in zip(paired, noise, x_0):
            orders = itertools.permutations(range(K))
            least = min((points[list(order)] - ends).square().sum().item() for order in orders)
            assert (here - ends).square().sum().item() == pytest.approx(least, rel=1e-5)
            assert sorted(here.tolist()) == sorted(points.tolist())


def test_noised_as_the_process_says(trained):
    x_0 = torch.rand(2, 30, 2, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    x_t, t = trained._noised(x_0)
    torch.manual_seed(2)
    assert torch.equal(t, torch.randint(1000, (2, 30)))
    noise = pair_noise(torch.randn(2, 30, 2), x_0)
    a_bar = trained.diffusion.schedule.alphas_cumprod[t].float().unsqueeze(-1)
    torch.testing.assert_close(x_t, a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise)


# -- the steps back ----------------------------------------------------------------------------------------------------


def pointing_at(spans, length, sure=100.0):
    """Pointers (1, K, 2, length) that show these spans, whatever the noise."""
    logits = torch.zeros(1, len(spans), 2, length)
    for k, (start, end) in enumerate(spans.tolist()):
        logits[0, k, 0, start] = logits[0, k, 1, end - 1] = sure
    return lambda *given: logits


@pytest.mark.parametrize("steps", [1, 5])
def test_sure_pointers_end_at_their_spans(trained, monkeypatch, steps):
    spans = all_spans(9)
    monkeypatch.setattr(trained.network, "pointers", pointing_at(spans, 9))
    monkeypatch.setitem(trained.options, "steps", steps)
    x_T, lengths = torch.randn(1, len(spans), 2), torch.tensor([[9]])
    *_, (x_t, x_0, found) = trained.steps(None, lengths, x_T)
    assert torch.equal(found[0], spans) and torch.equal(decode_spans(x_t, lengths)[0], spans)
    torch.testing.assert_close(x_0[0], encode_spans(spans, torch.tensor(9)))


def test_steps_are_those_of_ddim(trained):
    """The estimate is the mean of two softmaxes; from it and x_t, step by step, to the next timestep."""
    (windows, tokens, steps), *_ = trained.denoise(DEV[:1])
    lengths, a_bar = trained._lengths([window for _, window in windows]), trained.diffusion.schedule.alphas_cumprod
    generator = torch.Generator().manual_seed(diffusion_ner.stream_seed(0, "proposals"))
    x, n = torch.randn(20, 2, generator=generator).unsqueeze(0), int(lengths)
    grid = timestep_grid(1000, 5)
    for t, s, (x_t, x_0, spans) in zip(grid, [*grid[1:], -1], steps):
        logits = trained.network.pointers(tokens, lengths, x, torch.full((1, 20), t)).detach()
        chances = logits.softmax(-1)  # (1, 20, 2, n)
        start = sum(chances[..., 0, k] * k for k in range(n))
        end = sum(chances[..., 1, k] * (k + 1) for k in range(n))
        mean = 2 * torch.stack([(start + end) / n - 1, 2 * (end - start) / n - 1], dim=-1)
        torch.testing.assert_close(x_0, mean, rtol=1e-4, atol=1e-4)
        x = ddim_step(x, mean, a_bar[t].item(), a_bar[s].item() if s >= 0 else 1.0, torch.zeros_like(x))
        torch.testing.assert_close(x_t, x.float(), rtol=1e-3, atol=1e-3)
        assert torch.equal(spans, shown(logits))
        x = x_t


def test_the_mean_is_not_rounded_to_bf16():
    logits = torch.randn(1, 5, 2, 250, generator=torch.Generator().manual_seed(0))
    exact = torch.stack([logits[:, :, k].softmax(-1) @ (torch.arange(250.0) + k) for k in (0, 1)], dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(mean_places(logits), exact)


def test_padding_is_never_pointed_at(trained):
    tokens, x_t = torch.randn(2, 9, trained.network.width), torch.randn(2, 5, 2)
    logits = trained.network.pointers(tokens, torch.tensor([[9], [4]]), x_t, torch.zeros(2, 5, dtype=torch.long))
    assert logits[0].isfinite().all() and (logits[1, ..., 4:] == -torch.inf).all()
    alone = trained.network.pointers(tokens[1:, :4], torch.tensor([[4]]), x_t[1:], torch.zeros(1, 5, dtype=torch.long))
    torch.testing.assert_close(alone, logits[1:, ..., :4])


def test_the_judge_reads_first_last_and_mean(trained):
    tokens = torch.randn(1, 6, trained.network.width)
    read = []
    hook = trained.network.judge.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    trained.network.judge_spans(tokens, torch.tensor([[[1, 4], [2, 3]]]))
    hook.remove()
    for row, (a, b) in zip(read[0][0], [(1, 4), (2, 3)]):
        expected = torch.cat([tokens[0, a], tokens[0, b - 1], tokens[0, a:b].mean(0)])
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


# -- a tagger like the others ------------------------------------------------------------------------------------------


def test_learns_nested_names_saves_and_loads(trained, tmp_path):
    found = trained.predict(DEV)
    assert evaluate(DEV, found, resamples=0).f1 > 0.95
    nested = [one for one in found if {"Part", "Disease"} <= {e.type for e in one.entities}]
    assert len(nested) > 5 and all(0 < e.score <= 1 for one in found for e in one.entities)
    trained.save(tmp_path / "model")
    again = load_tagger(tmp_path / "model")
    again.precision = "no"
    assert type(again) is DiffusionTagger and again.options == trained.options and again.types == trained.types
    assert again.predict(DEV) == found
    scores = [[e.score for e in one.entities] for one in again.predict(DEV)]
    assert scores == [[e.score for e in one.entities] for one in found]


def test_overlap(trained, encoder, monkeypatch):
    assert trained.options["nested"]
    tagger = make(encoder, epochs=1).fit(make_corpus(9))
    assert not tagger.options["nested"]
    assert tagger.fit(TRAIN[:20]).options["nested"]  # the second corpus is another one
    outer, inner, crossing = (
        Entity(*span, "X", score=score) for *span, score in [(0, 9, 0.9), (2, 5, 0.8), (4, 12, 0.7)]
    )
    assert trained._compatible({crossing, inner, outer}) == [outer, inner]
    same_start = Entity(0, 3, "X", score=0.95)
    assert trained._compatible({outer, same_start}) == [same_start, outer]
    monkeypatch.setitem(trained.options, "nested", False)
    assert trained._compatible({crossing, inner, outer}) == [outer]
    flat = trained.predict(DEV)
    assert not any(a.overlaps(b) for one in flat for a, b in itertools.combinations(one.entities, 2))


def test_sure(trained, monkeypatch):
    counts = []
    for sure in (0.01, 0.5, 0.99, 1.0):
        monkeypatch.setitem(trained.options, "sure", sure)
        found = [e for one in trained.predict(DEV) for e in one.entities]
        assert all(e.score >= sure for e in found)
        counts.append(len(found))
    assert counts == sorted(counts, reverse=True) and counts[1] > counts[2] > counts[3]


def test_seeded_and_independent_of_its_company(trained, encoder):
    torch.manual_seed(3)
    one, after = make(encoder).fit(TRAIN, DEV), torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))  # the caller's generator is where it was
    for other, is_same in ((make(encoder).fit(TRAIN, DEV), True), (make(encoder, seed=1).fit(TRAIN, DEV), False)):
        pairs = zip(one.network.parameters(), other.network.parameters())
        assert all(torch.equal(a, b) for a, b in pairs) == is_same
    long = Sentence("mutated TPX3 " * 60, id="long")
    together = trained.predict([*DEV, long, Sentence("")])
    assert together[:-2] == trained.predict(DEV) == [trained.predict([sentence])[0] for sentence in DEV]
    assert together[-1].entities == ()


def test_an_interrupted_training_goes_on_bit_for_bit(encoder, tmp_path, monkeypatch):
    whole, autocast, calls = make(encoder).fit(TRAIN, DEV), training.autocast, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) > 10:
            raise KeyboardInterrupt
        return autocast(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "autocast", interrupted)
        make(encoder).fit(TRAIN, DEV, tmp_path)
    resumed = make(encoder).fit(TRAIN, DEV, tmp_path)
    assert resumed.history == whole.history
    assert all(map(torch.equal, whole.network.parameters(), resumed.network.parameters()))
    with pytest.raises(ValueError, match="but this training has"):
        make(encoder, proposals=30).fit(TRAIN, DEV, tmp_path)


def test_every_token_of_overlapping_windows_is_found_once(trained, monkeypatch):
    def show_all(tokens, lengths, x_T):
        first = torch.arange(tokens.shape[1]).minimum(lengths - 1)
        return [(None, None, torch.stack([first, first + 1], dim=-1))]

    monkeypatch.setattr(trained, "steps", show_all)
    monkeypatch.setattr(
        trained.network, "judge_spans", lambda _, spans: 9 * torch.eye(4)[1].expand(*spans.shape[:2], 4)
    )
    sentence = Sentence.from_words([word for one in make_corpus(40, seed=4) for word in one.words])
    assert len(trained._windows(sentence)) > 2
    (found,) = trained.predict([sentence, *DEV[:2]])[:1]
    assert [(e.start, e.end) for e in found.entities] == [token[:2] for token in sentence.tokens]
    assert {e.type for e in found.entities} == {"Disease"}


def test_odd_sentences(trained):
    odd = [Sentence(text) for text in ("", " ", "\0", "\ud800 lone", "x" * 500, "e\u0301 \u202e x \U0001f9ec")]
    assert [one.text for one in trained.predict(odd)] == [one.text for one in odd]
    bare = [sentence.with_entities([]) for sentence in DEV]
    assert trained.predict(bare) == trained.predict(DEV)  # what is given is not looked at
    assert trained.predict([]) == []
    torch.manual_seed(0)
    after = torch.rand(1)
    torch.manual_seed(0)
    trained.predict(DEV)
    assert torch.equal(after, torch.rand(1))  # the caller's generator is where it was


def test_sentences_without_names_and_with_more_than_are_noised(encoder):
    nothing = make(encoder).fit([sentence.with_entities([]) for sentence in TRAIN])
    assert nothing.types == [] and not any(one.entities for one in nothing.predict(DEV))
    examples = [example for one in TRAIN[:4] for example in nothing._examples(one.with_entities([]))]
    nothing._loss(*zip(*examples)).backward()
    assert all(part.grad is None for part in nothing.network.keys.parameters())  # the pointers learn nothing from these
    names = [(k, k + 1, "Gene") for k in range(40)]
    make(encoder, epochs=1).fit([Sentence.from_words(["BRC7"] * 40, names)] * 2)


def test_fine_tuning(trained, encoder, tmp_path):
    trained.save(tmp_path)
    tagger = DiffusionTagger.load(tmp_path)
    tagger.progress = False
    assert evaluate(DEV, tagger.fine_tune(TRAIN[:20]).predict(DEV), resamples=0).f1 > 0.9
    with pytest.raises(ValueError, match="cannot go on with New: it knows Disease, Gene, Part"):
        tagger.fine_tune([Sentence.from_words(["x"], [(0, 1, "New")])])


def test_nothing_nested_is_said_to_be_lost(encoder, capsys):
    make(encoder, epochs=1).fit(TRAIN[:20])
    assert capsys.readouterr().out == ""
    pieces = Entity(0, 21, "X", fragments=((0, 7), (13, 21)))
    make(encoder, epochs=1).fit([*TRAIN[:8], TRAIN[8].with_entities([pieces])])
    assert "1 discontinuous" in capsys.readouterr().out


def test_bad_arguments(encoder, trained, tmp_path):
    for wrong in (dict(proposals=0), dict(steps=0), dict(steps=1001), dict(steps=2.5), dict(sure=0), dict(sure=1.1)):
        with pytest.raises(ValueError, match="proposals must be at least 1, steps 1 to 1000, sure above 0 to 1; got "):
            make(encoder, **wrong)
    with pytest.raises(ValueError, match="unknown pooling 'last'"):
        make(encoder, pooling="last")
    with pytest.raises(ValueError, match="has learned nothing yet"):
        make(encoder).predict(DEV)
    with pytest.raises(ValueError, match="at least one sentence with a token"):
        make(encoder).fit([Sentence("")])
    with pytest.raises(TypeError, match="scores spans, not tags"):
        entity_confidence(trained, DEV)
    trained.save(tmp_path)
    header = json.loads((tmp_path / "tagger.json").read_text())
    assert header["tagger"] == "diffusion"
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="model.safetensors is damaged or of another tagger"):
        DiffusionTagger.load(tmp_path)


def test_command_line(encoder, tmp_path, monkeypatch, capsys):
    write_jsonl(TRAIN, tmp_path / "train.jsonl")
    write_jsonl(DEV, tmp_path / "dev.jsonl")
    monkeypatch.setattr("utils.ner.encoders.find_encoder", lambda name=None: (encoder, True))
    monkeypatch.setattr("utils.ner.encoders.find_minilm", lambda: encoder)
    assert type(make_tagger("diffusion")) is DiffusionTagger
    files = ["--train", str(tmp_path / "train.jsonl"), "--dev", str(tmp_path / "dev.jsonl")]
    main(["train", *files, "--model", "diffusion", "--out", str(tmp_path / "model"), "--learning-rate", "1e-3"])
    assert "diffusion trained in" in capsys.readouterr().out
    assert load_tagger(tmp_path / "model").recipe.learning_rate == 1e-3
