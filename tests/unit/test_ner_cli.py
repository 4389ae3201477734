"""`python -m utils.ner train`, `python -m utils.ner tag`, the formats they know, and the benchmark's tables."""

import io
import json
import subprocess
import sys

import pytest

from tests.benchmarks import ner as benchmark
from utils.ner import (
    CRFTagger,
    Entity,
    RegexTagger,
    Sentence,
    load_tagger,
    read_conll,
    read_jsonl,
    read_pubtator,
    training,
    write_conll,
    write_jsonl,
)
from utils.ner.__main__ import main
from utils.ner.bilstm_crf import BiLSTMCRFTagger
from utils.ner.combine import CorrectedTagger, VotingTagger
from utils.ner.formats import format_of, read_sentences

TEXTS = "Mutated BRCA1 and p53.\n\nNothing here.\r\n"


@pytest.fixture
def model(tmp_path):
    RegexTagger({"Gene": r"BRCA1|p53"}).save(tmp_path / "model")
    return str(tmp_path / "model")


def run_tag(monkeypatch, capsysbinary, text, *arguments):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text if isinstance(text, bytes) else text.encode())))
    main(["tag", *map(str, arguments)])
    return capsysbinary.readouterr().out.decode("utf-8")


def test_lines_for_people(model, monkeypatch, capsysbinary):
    assert run_tag(monkeypatch, capsysbinary, TEXTS, model) == (
        "Mutated BRCA1 and p53.\n"
        "     8     13  Gene          BRCA1\n"
        "    18     21  Gene          p53\n\nNothing here.\n\n"
    )
    assert run_tag(monkeypatch, capsysbinary, "", model) == ""


@pytest.mark.parametrize("form, read", [("jsonl", read_jsonl), ("conll", read_conll), ("pubtator", read_pubtator)])
def test_lines_for_machines(model, monkeypatch, capsysbinary, tmp_path, form, read):
    out = run_tag(monkeypatch, capsysbinary, TEXTS, model, "--format", form)
    (tmp_path / "read").write_text(out)
    first, second = read(tmp_path / "read")
    assert [one.text for one in first.entities] == ["BRCA1", "p53"] and not second.entities
    run_tag(monkeypatch, capsysbinary, TEXTS, model, "--format", form, "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == out


def test_brat_and_files_as_input(model, monkeypatch, capsysbinary, tmp_path):
    write_jsonl([Sentence("a p53", id="doc")], tmp_path / "in.jsonl")
    options = ["--input", tmp_path / "in.jsonl", "--format", "brat", "--out", tmp_path / "brat"]
    assert run_tag(monkeypatch, capsysbinary, "", model, *options) == ""
    assert read_sentences(tmp_path / "brat")[0].entities == (Entity(2, 5, "Gene"),)
    with pytest.raises(SystemExit):
        main(["tag", model, "--format", "brat"])


def test_tag_says_what_is_wrong(model, monkeypatch, capsysbinary, tmp_path):
    with pytest.raises(SystemExit, match="holds no tagger"):
        run_tag(monkeypatch, capsysbinary, TEXTS, tmp_path)
    with pytest.raises(SystemExit, match="line 2 of the input is no UTF-8"):
        run_tag(monkeypatch, capsysbinary, b"fine\n\xff\xfe\n", model)
    with pytest.raises(SystemExit):
        run_tag(monkeypatch, capsysbinary, TEXTS, model, "--format", "xml")
    assert b"choose from" in capsysbinary.readouterr().err


def test_train_on_a_corpus_and_tag_in_processes_of_their_own(root, tmp_path):
    line = [sys.executable, "-m", "utils.ner", "train", "--corpus", "course-corpus", "--model", "dictionary"]
    done = subprocess.run([*line, "--out", tmp_path / "m"], cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "173 training sentences with CHEMICAL, DISEASE, GENE; 52 for choosing" in done.stdout
    assert "on dev:" in done.stdout
    line = [sys.executable, "-m", "utils.ner", "tag", tmp_path / "m"]
    done = subprocess.run(line, cwd=root, input="warfarin works\n", capture_output=True, text=True, timeout=600)
    assert done.stdout == "warfarin works\n     0      8  CHEMICAL      warfarin\n\n", done.stderr


def test_train_on_files_of_ones_own(tmp_path, capsys):
    sentences = [Sentence.from_words(["Vega", "shines", "on", "Earth"], [(0, 1, "Star"), (3, 4, "Planet")])] * 4
    write_conll(sentences, tmp_path / "train.conll")
    write_jsonl(sentences[:1], tmp_path / "dev.jsonl")
    options = {"--train": "train.conll", "--dev": "dev.jsonl", "--out": "m"}
    main(["train", *(part for name, file in options.items() for part in (name, str(tmp_path / file)))])
    assert "4 training sentences with Planet, Star; 1 for choosing" in capsys.readouterr().out
    found = load_tagger(tmp_path / "m").predict(sentences[:1])
    assert [one.type for one in found[0].entities] == ["Star", "Planet"]


def test_an_interrupted_vote_goes_on(tmp_path, monkeypatch, capsys):
    write_conll([Sentence.from_words(["Vega", "shines"], [(0, 1, "Star")])] * 4, tmp_path / "train.conll")
    line = ["train", "--train", str(tmp_path / "train.conll"), "--model", "biotagger-gm", "--out", str(tmp_path / "m")]
    fit, calls = CRFTagger.fit, []

    def interrupted(self, *arguments, **options):
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(self, *arguments, **options)

    monkeypatch.setattr(CRFTagger, "fit", interrupted)
    with pytest.raises(SystemExit, match="interrupted; the same command goes on"):
        main(line)
    main(line)
    assert len(calls) == 5 and not (tmp_path / "m" / "training").exists()  # 2, the interrupted one, the 2 missing
    assert load_tagger(tmp_path / "m").predict([Sentence("Vega")])[0].entities


@pytest.fixture
def interrupt(monkeypatch):
    """Raises KeyboardInterrupt in a network's third step, once; gives the list of all steps that were begun."""
    begun, seed_of = [], training.stream_seed

    def interrupted(seed, use, *place):
        if use == "step":
            begun.append(place)
            if len(begun) == 3:
                raise KeyboardInterrupt
        return seed_of(seed, use, *place)

    monkeypatch.setattr(training, "stream_seed", interrupted)
    return begun


def make_small(*_):
    return BiLSTMCRFTagger(vectors=None, hidden=4, epochs=2, batch_size=1, save_every=1, device="cpu")


@pytest.mark.parametrize("kind", ["network", "vote", "corrected vote"])
def test_an_interrupted_network_goes_on_too(kind, tmp_path, monkeypatch, interrupt):
    """A network keeps what it has at Ctrl-C; it must not be saved as if it were trained."""
    write_conll([Sentence.from_words(["Vega", "shines"], [(0, 1, "Star")])] * 4, tmp_path / "train.conll")

    def make(*_):
        member = CorrectedTagger(make_small()) if kind == "corrected vote" else make_small()
        return member if kind == "network" else VotingTagger([member, make_small()])

    monkeypatch.setattr("utils.ner.__main__.make_tagger", make)
    line = ["train", "--train", str(tmp_path / "train.conll"), "--out", str(tmp_path / "m")]
    with pytest.raises(SystemExit, match="interrupted; the same command goes on"):
        main(line)
    assert not (tmp_path / "m" / "tagger.json").exists()
    main(line)
    whole = [(epoch, step) for epoch in range(2) for step in range(4)]
    assert interrupt == whole[:3] + whole[2:] + (whole if kind != "network" else [])
    assert not (tmp_path / "m" / "training").exists() and load_tagger(tmp_path / "m").predict([Sentence("Vega")])


def test_the_benchmark_keeps_no_half_trained_network(tmp_path, monkeypatch, interrupt):
    monkeypatch.setattr(benchmark, "make_tagger", make_small)
    line = ["--models", "bilstm-crf", "--corpora", "course-corpus", "--out", str(tmp_path / "bench")]
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(line)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--corpus", "nowhere"], "ncbi-disease"),
        (["--corpus", "course-corpus", "--model", "hmm"], "biotagger-gm"),
        (["--corpus", "course-corpus", "--dev", "x"], "--dev goes with --train"),
        ([], "one of the arguments"),
    ],
)
def test_train_lists_what_it_knows(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", *arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err.split("error:")[1]


def test_train_says_which_line_is_wrong(tmp_path):
    (tmp_path / "bad.conll").write_text("a\tO\nb\n")
    with pytest.raises(SystemExit, match="bad.conll, line 2: 'b'; expected"):
        main(["train", "--train", str(tmp_path / "bad.conll"), "--out", str(tmp_path / "m")])
    with pytest.raises(SystemExit, match="No such file"):
        main(["train", "--train", str(tmp_path / "none.conll"), "--out", str(tmp_path / "m")])


def test_formats_by_name(tmp_path):
    names = {"a.jsonl": "jsonl", "a.pubtator": "pubtator", "a.pubtator.txt": "pubtator", "a.tsv": "conll", "a": "conll"}
    assert {name: format_of(tmp_path / name) for name in names} == names
    assert format_of(tmp_path) == "brat"
    with pytest.raises(ValueError, match="unknown format 'xml'; choose one of auto, conll, jsonl, pubtator, brat"):
        read_sentences(tmp_path / "a", "xml")


def test_benchmark_measures_once_and_collects(tmp_path, capsys):
    line = ["--models", "dictionary", "--corpora", "course-corpus", "--out", str(tmp_path / "bench")]
    benchmark.main(line)
    kept = tmp_path / "bench" / "course-corpus--dictionary--0.json"
    result = json.loads(kept.read_text())
    assert set(result["scores"]) == {"all", "CHEMICAL", "DISEASE", "GENE"} and result["train_seconds"] > 0
    assert result["sentences_per_second"] > 0 and result["bytes"] > 1000
    result["scores"]["all"] = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "intervals": {"f1": [0.3, 0.4]}}
    other = json.loads(json.dumps(result)) | {"seed": 1}
    other["scores"]["all"]["f1"] = 0.5
    kept.write_text(json.dumps(result))
    kept.with_name("course-corpus--dictionary--1.json").write_text(json.dumps(other))
    benchmark.main(line)
    assert "--again measures it anew" in capsys.readouterr().out
    text = (tmp_path / "bench.md").read_text()
    assert "| corpus | dictionary |" in text
    assert "| course-corpus, all | 41.7 ± 11.8 |" in text  # mean and standard deviation of 33.3 and 50
    assert "| course-corpus, all | dictionary | 50.0 | 25.0 | 41.7 ± 11.8 | 30.0 to 40.0 |" in text
    benchmark.main([*line, "--tag-again"])
    again = json.loads(kept.read_text())
    assert again["train_seconds"] == result["train_seconds"] and again["scores"]["all"]["f1"] != pytest.approx(1 / 3)
    with pytest.raises(SystemExit, match="voting on course-corpus needs two of crf, biotagger-gm"):
        benchmark.main([*line, "--models", "voting"])
