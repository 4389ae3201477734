"""The benchmark of the diffusion tagger: its other taggers, its rows, and that it goes on where it was cut off."""

import itertools
import types

import pytest
import torch

from tests.benchmarks import diffusion_ner as benchmark
from tests.tiny_ner import make_encoder, make_nested
from utils.ner import diffusion_ner as parts
from utils.ner.sentence import Sentence


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(make_encoder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture
def tiny(encoder, monkeypatch):
    options = dict(encoder=encoder, batch_size=8, device="cpu", precision="no", learning_rate=3e-3, new_rate=1.0)
    monkeypatch.setattr(benchmark, "READING", benchmark.READING | options)
    monkeypatch.setattr(benchmark, "splits", lambda _: (make_nested(), make_nested(9, 1), make_nested(20, 2)))
    clock = itertools.count(step=0.05)  # so that no test depends on how fast the machine is
    monkeypatch.setattr(benchmark, "time", types.SimpleNamespace(process_time=clock.__next__))


ONE_STEP = ("Hungarian matching, one shot", "all spans, taught by few")
ONE_STEP += ("all spans, no diffusion", "one shot, no diffusion")
SHORT = ("token head", "token head, CRF and BIOES")  # one row of tags holds no inner names


@pytest.mark.parametrize("name", [*benchmark.MODELS, *benchmark.PARTS])
def test_each_gives_its_rows(tiny, monkeypatch, name):
    block, losses = "models" if name in benchmark.MODELS else "parts", []
    places = ("SCALE", "pair_noise", "encode_spans", "edges", "sample", "mean_places")
    kept = {place: getattr(parts, place) for place in places}
    if block == "models":
        kind = benchmark.MODELS[name]
        loss = kind._loss
        monkeypatch.setattr(kind, "_loss", lambda *given: losses.append(1) or loss(*given))
    first, *others = benchmark.measure(block, name, "genia-nested", 0, 20)
    assert kept == {place: getattr(parts, place) for place in places}  # nothing stays replaced
    wanted = list(benchmark.SETTINGS) if name == "diffusion" else ["steps 1", "sure as chosen"]
    if name in (*SHORT, "two layers of tags"):
        wanted = []
    elif name in ONE_STEP:
        wanted = ["sure as chosen"]
    assert [row["setting"] for row in others] == wanted
    assert all(row["block"] == "settings" and row["steps"] == first["steps"] for row in others)
    assert ["F1" in row for row in others] == [setting in benchmark.ON_TEST for setting in wanted]
    assert first["F1"] > (60 if name in SHORT else 70) and 20 <= first["seconds"] < 20.1
    assert (first["inner recall"] > 50) == (name not in SHORT)
    assert ("proposed" in first) == (name not in (*SHORT, "two layers of tags"))
    assert block == "parts" or first["steps"] == len(losses) - 1  # the last one was cut off
    assert first["budget"] == 20 and first["epochs"] == pytest.approx(first["steps"] * 8 / 60, abs=0.06)


def test_settings_ask_the_same_weights_in_another_way(tiny):
    tagger = benchmark.DiffusionTagger(**benchmark.READING, epochs=2).fit(make_nested(20))
    before = dict(tagger.options), tagger.recipe
    (windows, tokens, states), *_ = tagger.denoise(make_nested(5, 3))
    many = benchmark.asked_by(tagger, "steps 10")
    assert many.network is tagger.network and len(next(iter(many.denoise(make_nested(5, 3))))[2]) == 10
    few = benchmark.asked_by(tagger, "proposals 10")
    assert next(iter(few.denoise(make_nested(5, 3))))[2][0][0].shape[1] == 10
    assert not torch.equal(benchmark.asked_by(tagger, "noise 1").start(), tagger.start())
    sure = states[-1][-1].float()
    with benchmark.replaced("argmax, not the mean"):
        lengths = tagger._lengths([window for _, window in windows])
        x_T = tagger.start().expand(len(windows), -1, -1)
        *_, (_, x_0, spans) = tagger.steps(tokens, lengths, x_T)
    torch.testing.assert_close(x_0, parts.encode_spans(spans, lengths))
    assert not torch.equal(states[-1][1], parts.encode_spans(sure, lengths))
    with benchmark.replaced("eta 1"):
        (_, _, fresh), *_ = tagger.denoise(make_nested(5, 3))
    assert torch.equal(fresh[0][1], states[0][1]) and not torch.equal(fresh[0][0], states[0][0])
    judged = benchmark.asked_by(tagger, "judge all spans")
    assert benchmark.scores(judged, make_nested(9, 1))["proposed"] == 100
    assert (dict(tagger.options), tagger.recipe) == before and type(tagger) is benchmark.DiffusionTagger


def test_sureness_is_chosen_on_the_sentences_to_choose_on(tiny):
    tagger = benchmark.DiffusionTagger(**benchmark.READING, epochs=3).fit(make_nested(40))
    dev, tagger.options["sure"] = make_nested(9, 1), 0.5
    chosen = benchmark.surest(tagger, dev)
    f1 = {}
    for sure in benchmark.SURE:
        tagger.options["sure"] = sure
        f1[sure] = benchmark.scores(tagger, dev)["F1"]
    assert f1[chosen] == max(f1.values()) > min(f1.values())


CHANGED = [name for name, kind in benchmark.PARTS.items() if "all spans" not in name and "token head" not in name]


@pytest.mark.parametrize("name", CHANGED)
def test_each_part_changes_the_loss(tiny, name):
    def loss_of(kind):
        tagger = kind(**benchmark.READING, epochs=1).fit(make_nested(8))
        examples = [example for one in make_nested(8, 5) for example in tagger._examples(one)]
        torch.manual_seed(0)
        return tagger._loss(*zip(*examples)).item()

    with benchmark.replaced(name):
        changed = loss_of(benchmark.PARTS[name])
    assert changed != loss_of(benchmark.DiffusionTagger)


def test_what_the_judge_was_shown(tiny):
    tagger = benchmark.SpanTagger(**benchmark.READING, epochs=1).fit(make_nested(8))
    sentences = [Sentence("a b c"), Sentence("a")]
    found, shown, _ = benchmark.predict_and_watch(tagger, sentences)
    assert found == tagger.predict(sentences)
    assert shown == [{(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}, {(0, 1)}]


def test_all_spans_are_looked_at(tiny):
    tagger = benchmark.SpanTagger(**benchmark.READING, epochs=1).fit(make_nested(8))
    sentence, short = Sentence("a b c d e f g h i j k l m n"), Sentence("a b")
    spans = tagger._spans([*tagger._windows(sentence), *tagger._windows(short)])
    wanted = {(a, b) for a, b in itertools.combinations(range(15), 2) if b - a <= benchmark.LONGEST}
    assert {tuple(span) for span in spans[0].tolist()} == wanted
    assert {tuple(span) for span in spans[1].tolist()} == {(0, 1), (1, 2), (0, 2)}


def test_matching_is_the_best_of_all_permutations(tiny, monkeypatch):
    tagger = benchmark.MatchedTagger(**benchmark.READING, epochs=1).fit(make_nested(8))
    logits, gold = torch.randn(2, 4, 2, 7), torch.tensor([[[0, 2], [3, 4], [5, 7], [0, 2]]] * 2)
    losses = []
    for order in itertools.permutations(range(4)):
        losses.append(
            [
                float(parts.DiffusionTagger._pointing(tagger, a[None], b[None][:, list(order)]))
                for a, b in zip(logits, gold)
            ]
        )
    best = [min(one) for one in zip(*losses)]
    assert float(tagger._pointing(logits, gold)) == pytest.approx(sum(best) / 2, rel=1e-5)


def test_it_goes_on_where_it_was_cut_off(monkeypatch, tmp_path):
    asked, table = [], tmp_path / "t.csv"

    def measure(block, name, corpus, seed, seconds):
        asked.append((corpus, name, seed, seconds))
        row = {"budget": seconds, "block": block, "corpus": corpus, "model": name, "setting": "", "seed": seed, "F1": 5}
        yield row
        yield row | {"block": "settings", "setting": "steps 1"}

    monkeypatch.setattr(benchmark, "measure", measure)
    line = ["x", "--out", str(table), "--blocks", "models", "--models", "token head", "--corpora", "bc5cdr"]
    for more in (["--seeds", "0"], ["--seeds", "0", "1"], ["--seeds", "2", "--limit", "0"], ["--seconds", "9"]):
        monkeypatch.setattr("sys.argv", [*line, *more])
        benchmark.main()
    first = [("bc5cdr", "token head", seed, 300) for seed in (0, 1)]  # what is there is not measured again
    assert asked == [*first, *(("bc5cdr", "token head", seed, 9.0) for seed in range(3))]
    rows = [row for row in benchmark.read_rows(table) if row["block"] == "models"]
    assert [(row["seed"], row["budget"]) for row in rows] == [(0, 9), (0, 300), (1, 9), (1, 300), (2, 9)]
    assert table.read_text().startswith("# python -m tests.benchmarks.diffusion_ner; torch ")


def test_what_stands_in_is_not_measured(monkeypatch):
    corpus = types.SimpleNamespace(stands_in=True, splits=("train", "dev", "test"))
    monkeypatch.setattr(benchmark, "load_corpus", lambda name: corpus)
    with pytest.raises(SystemExit, match="genia-nested is not at hand, so nothing is measured"):
        benchmark.splits("genia-nested")


def test_two_layers_only_where_names_nest():
    args = types.SimpleNamespace(blocks=["models", "parts"], seeds=[0], corpora=benchmark.CORPORA)
    args.models = [*benchmark.MODELS, *benchmark.PARTS]
    asked = list(benchmark.trainings(args))
    assert {corpus for _, _, corpus, name in asked if name == "two layers of tags"} == {"genia-nested"}
    assert {corpus for block, _, corpus, _ in asked if block == "parts"} == {"genia-nested"}
    assert len(asked) == 5 + 4 + 4 + len(benchmark.PARTS)
