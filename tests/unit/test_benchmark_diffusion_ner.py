"""The benchmark of the diffusion tagger: its other taggers, its rows, and that it goes on where it was cut off."""

import itertools

import pytest
import torch

from tests.benchmarks import diffusion_ner as benchmark
from tests.tiny_ner import make_corpus, make_encoder
from utils.ner import diffusion_ner as parts
from utils.ner.sentence import Entity, Sentence


def make_nested(count=60, seed=0):
    """The tiny corpus, where in "severe hepatitis" the last word is a name, too."""
    sentences = []
    for one in make_corpus(count, seed):
        inner = [Entity(e.end - len(e.text.split()[-1]), e.end, "Part") for e in one.entities if " " in e.text]
        sentences.append(one.with_entities([*one.entities, *inner]))
    return sentences


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(make_encoder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture
def tiny(encoder, monkeypatch):
    options = dict(encoder=encoder, batch_size=8, device="cpu", precision="no", learning_rate=3e-3, new_rate=1.0)
    monkeypatch.setattr(benchmark, "READING", benchmark.READING | options)
    monkeypatch.setattr(benchmark, "SETTINGS", [{"steps": 1}])
    monkeypatch.setattr(benchmark, "splits", lambda _: (make_nested(), make_nested(9, 1), make_nested(20, 2)))


@pytest.mark.parametrize("name", [*benchmark.MODELS, *benchmark.PARTS])
def test_each_gives_its_rows(tiny, name):
    block = "models" if name in benchmark.MODELS else "parts"
    kept = {place: getattr(parts, place) for place in ("pair_noise", "encode_spans", "edges")}
    first, *others = benchmark.measure(block, name, "genia-nested", 0, 4)
    assert kept == {place: getattr(parts, place) for place in kept}  # nothing stays replaced
    asked = name in ("diffusion", *benchmark.PARTS) and "T - 1" not in name
    assert [(row["block"], row["setting"]) for row in others] == asked * [("settings", "steps 1")]
    assert first["F1"] > (60 if name == "token head" else 75) and 4 <= first["seconds"] < 8 and first["steps"] > 8
    assert (first["inner recall"] > 50) == (name != "token head")
    assert ("proposed" in first) == (name not in ("token head", "two layers of tags"))


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


def test_it_goes_on_where_it_was_cut_off(monkeypatch, tmp_path, capsys):
    asked = []

    def measure(block, name, corpus, seed, seconds):
        asked.append((corpus, name, seed))
        yield {"block": block, "corpus": corpus, "model": name, "setting": "", "seed": seed, "F1": 50.0}

    monkeypatch.setattr(benchmark, "measure", measure)
    line = [
        "x",
        "--out",
        str(tmp_path / "t.csv"),
        "--blocks",
        "models",
        "--models",
        "token head",
        "--corpora",
        "bc5cdr",
    ]
    for more in (["--seeds", "0"], ["--seeds", "0", "1"], ["--seeds", "2", "--limit", "0"]):
        monkeypatch.setattr("sys.argv", [*line, *more])
        benchmark.main()
    assert asked == [("bc5cdr", "token head", 0), ("bc5cdr", "token head", 1)]  # what is there is not measured again
    assert [row["seed"] for row in benchmark.read_rows(tmp_path / "t.csv")] == [0, 1]
    assert (tmp_path / "t.csv").read_text().startswith("# python -m tests.benchmarks.diffusion_ner; torch ")
