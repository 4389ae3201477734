"""`python -m utils.ner train`, `python -m utils.ner tag`, the formats they know, and the benchmark's tables."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from tests.benchmarks import ner as benchmark
from utils.files import TrainingDiverged
from utils.ner import (
    CRFTagger,
    Entity,
    RegexTagger,
    Sentence,
    load_tagger,
    make_tagger,
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
    with pytest.raises(SystemExit, match="standard input, line 2: .* expected UTF-8"):
        run_tag(monkeypatch, capsysbinary, b"fine\n\xff\xfe\n", model)
    for form in ("utf-16-le", "utf-16-be"):
        with pytest.raises(SystemExit, match="standard input, line 1: .*is the file UTF-16"):
            run_tag(monkeypatch, capsysbinary, TEXTS.encode(form), model)
    with pytest.raises(SystemExit):
        run_tag(monkeypatch, capsysbinary, TEXTS, model, "--format", "xml")
    assert b"choose from" in capsysbinary.readouterr().err


def test_a_txt_is_plain_text(model, monkeypatch, capsysbinary, tmp_path):
    (tmp_path / "a.b.txt").write_bytes(b"\xef\xbb\xbfOf p53\r\rand BRCA1\r")
    out = run_tag(monkeypatch, capsysbinary, "", model, "--input", tmp_path / "a.b.txt", "--format", "jsonl")
    found = [(record["id"], record["text"]) for record in map(json.loads, out.splitlines())]
    assert found == [("1", "Of p53"), ("3", "and BRCA1")]
    (tmp_path / "a.conll.txt").write_text("p53\tO\nis\tO\n")
    for name, form in (("a.conll.txt", ()), ("a.b.txt", ("--input-format", "conll"))):
        (tmp_path / "a.b.txt").write_text("p53 O\nis O\n")
        assert "p53 is\n" in run_tag(monkeypatch, capsysbinary, "", model, "--input", tmp_path / name, *form)


@pytest.mark.parametrize("form", ["lines", "jsonl", "conll", "pubtator", "brat"])
def test_out_may_be_a_link_a_pipe_or_a_device(form, model, monkeypatch, capsysbinary, tmp_path):
    target, link, pipe, got = tmp_path / "target", tmp_path / "link", tmp_path / "pipe", []
    target.mkdir() if form == "brat" else target.write_text("old")
    link.symlink_to(target)
    os.mkfifo(pipe)
    run_tag(monkeypatch, capsysbinary, "Of p53", model, "--format", form, "--out", link)
    assert link.is_symlink()
    if form == "brat":
        assert (target / "1.txt").read_text() == "Of p53"
        for place in (pipe, "/dev/null"):
            with pytest.raises(SystemExit):
                run_tag(monkeypatch, capsysbinary, "Of p53", model, "--format", form, "--out", place)
            assert b"brat alone writes folders" in capsysbinary.readouterr().err
        return
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    for place in (pipe, "/dev/null"):
        run_tag(monkeypatch, capsysbinary, "Of p53", model, "--format", form, "--out", place)
    reader.join()
    assert "p53" in got[0] and target.read_text() == got[0]
    assert pipe.is_fifo() and not os.path.isfile("/dev/null")


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("a\tp53", ["--format", "pubtator"], "has a tab"),
        ("p53", ["--format", "brat", "--out", "full"], "other.txt, with which these pairs would be mixed"),
        ("p53", ["--out", "full/other.txt/below"], "full/other.txt"),
        ('{"text": "half of \\ud83d"}\n{"text": "p53"}', ["--input", "in.jsonl"], "in.jsonl, line 1: .* surrogates"),
        ('{"text": ""}', ["--input", "in.jsonl", "--format", "conll"], "no tokens"),
        ('{"text": "p53", "id": "a/b"}', ["--input", "in.jsonl", "--format", "brat", "--out", "b"], "ids of letters"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(text, options, message, model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RegexTagger, "predict", lambda *_: pytest.fail("tagged"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other.txt").touch()
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(SystemExit, match=message):
        main(["tag", model, *options])


def test_out_of_train_is_looked_at_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(CRFTagger, "fit", lambda *_: pytest.fail("trained"))
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="cannot be written in .*file: that is no folder"):
        main(["train", "--corpus", "course-corpus", "--out", str(tmp_path / "file")])


def test_what_messages_advise_can_be_done(model, monkeypatch, capsysbinary, tmp_path):
    (tmp_path / "a.pubtator").write_text("1|t|GENEX up\n1\t0\t5\tGENEX\tGene\n1\t6\t8\tdown\tGene\n")
    line = ["train", "--train", str(tmp_path / "a.pubtator"), "--model", "dictionary", "--out", str(tmp_path / "m")]
    with pytest.raises(SystemExit, match="line 3: .*; --mismatch skip leaves it out"):
        main(line)
    with pytest.warns(UserWarning, match="'down' left out"):
        main([*line, "--mismatch", "skip"])
    RegexTagger({"Half": "53"}).save(model)
    capsysbinary.readouterr()
    line = [model, "--format", "conll"]
    with pytest.raises(SystemExit, match="use more layers, or --on-loss drop"):
        run_tag(monkeypatch, capsysbinary, "of p53", *line)
    with pytest.warns(UserWarning, match="1 misaligned"):
        assert run_tag(monkeypatch, capsysbinary, "of p53", *line, "--on-loss", "drop") == "of\tO\np53\tO\n\n"


def test_a_training_that_diverges_and_its_switches(tmp_path, monkeypatch, capsys):
    made = []

    class Diverging(CRFTagger):
        def fit(self, *_):
            raise TrainingDiverged('loss nan; try a lower learning_rate, or precision="no"')

    monkeypatch.setattr("utils.ner.__main__.make_tagger", lambda *_, **options: made.append(options) or Diverging())
    line = ["train", "--corpus", "course-corpus", "--out", str(tmp_path / "m"), "--learning-rate", "1e-4"]
    with pytest.raises(SystemExit, match="loss nan; try a lower --learning-rate, or --precision no"):
        main([*line, "--precision", "no", "--model", "bilstm-crf"])
    assert made == [{"learning_rate": 1e-4, "precision": "no"}]
    with pytest.raises(SystemExit):
        main(line)
    assert "are for bilstm-crf, transformer and diffusion, not for crf" in capsys.readouterr().err


def test_snap_moves_edges_to_tokens(tmp_path):
    record = {"text": "We saw GENE1 .", "entities": [{"start": 7, "end": 11, "type": "Gene"}]}
    (tmp_path / "train.jsonl").write_text(f"{json.dumps(record)}\n" * 60)  # a folder of your own, without dev
    line = ["train", "--corpus", str(tmp_path), "--out", str(tmp_path / "m")]
    with pytest.raises(SystemExit, match="60 of 60 entities cannot be learnt: 60 misaligned .*; --snap moves"):
        main(line)
    main([*line, "--snap"])
    (found,) = load_tagger(tmp_path / "m").predict([Sentence("We saw GENE1 .")])
    assert [entity.text for entity in found.entities] == ["GENE1"]


def test_voting_has_the_members_of_the_benchmark():
    assert [one.name for one in make_tagger("voting").members] == ["crf", "voting", "bilstm-crf", "transformer"]


RUN = f"{sys.executable} -m utils.ner"


@pytest.mark.parametrize(
    "line, code, out, err",
    [
        (f"{RUN} tag M <&-", 1, "", "standard input or output is closed; say with --input"),
        (f"echo p53 | {RUN} tag M >&-", 1, "", "standard input or output is closed; say with --input"),
        (f"echo p53 | {RUN} tag M --out F >&- 2>&-", 0, "", ""),
        (f"echo p53 | {RUN} tag M > /dev/full", 1, "", "No space left on device"),
        (f"yes p53 | head -9999 | {RUN} tag M | head -1", 0, "p53", ""),
        (f"{RUN} train --corpus course-corpus --out T <&- >&- 2>&-; cat T/tagger.json", 0, '"crf"', ""),
        (f"PYTHONIOENCODING=ascii {RUN} train --train C --model dictionary --out Mü", 0, r"\u03b2-G\xe8ne", ""),
    ],
)
def test_closed_full_and_narrow_streams(line, code, out, err, model, root, tmp_path):
    write_conll([Sentence.from_words(["p53"], [(0, 1, "β-Gène")])], tmp_path / "C")
    (tmp_path / "M").symlink_to(model)
    env = {**os.environ, "PYTHONPATH": str(root), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == code and out in done.stdout and err in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr and bool(err) == bool(done.stderr)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_end_that_is_asked_for_is_like_ctrl_c(number, root, tmp_path):
    os.mkfifo(tmp_path / "train.conll")
    line = [*RUN.split(), "train", "--train", str(tmp_path / "train.conll"), "--out", str(tmp_path / "m")]
    process = subprocess.Popen(line, cwd=root, stderr=subprocess.PIPE, text=True)
    with open(tmp_path / "train.conll", "w"):  # opens once the command reads
        process.send_signal(number)
        _, err = process.communicate(timeout=600)
    assert process.returncode == 1 and err.endswith(
        "interrupted; the same command goes on or, where it cannot, begins again\n"
    )


def test_train_on_a_corpus_and_tag_in_processes_of_their_own(root, tmp_path):
    line = [sys.executable, "-m", "utils.ner", "train", "--corpus", "course-corpus", "--model", "dictionary"]
    done = subprocess.run([*line, "--out", tmp_path / "m"], cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "176 training sentences with CHEMICAL, DISEASE, GENE; 50 for choosing" in done.stdout
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
    line = ["--models", "bilstm-crf", "--corpora", "course-corpus"]
    line += ["--out", str(tmp_path / "bench"), "--trained", str(tmp_path / "trained")]
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(line)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--corpus", "course-corpus", "--model", "hmm"], "biotagger-gm"),
        (["--corpus", "course-corpus", "--dev", "x"], "--dev goes with --train"),
        ([], "one of the arguments"),
    ],
)
def test_train_lists_what_it_knows(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", *arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err.split("error:")[1]
    with pytest.raises(SystemExit, match="unknown corpus 'nowhere'; choose one of ncbi-disease, .* or give a folder"):
        main(["train", "--corpus", "nowhere", "--out", str(tmp_path)])


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
    line = ["--models", "dictionary", "--corpora", "course-corpus", "--blocks", "train"]
    line += ["--out", str(tmp_path / "bench"), "--trained", str(tmp_path / "trained")]
    benchmark.main(line)
    kept = tmp_path / "bench" / "train" / "course-corpus--dictionary--0.json"
    result = json.loads(kept.read_text())
    assert set(result["scores"]) == {"all", "CHEMICAL", "DISEASE", "GENE"} and result["train_seconds"] > 0
    assert result["sentences_per_second"] > 0 and result["bytes"] > 1000
    result["scores"]["all"] = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "intervals": {"f1": [0.3, 0.4]}}
    other = json.loads(json.dumps(result)) | {"seed": 1}
    other["scores"]["all"]["f1"] = 0.5
    kept.write_text(json.dumps(result))
    kept.with_name("course-corpus--dictionary--1.json").write_text(json.dumps(other))
    shutil.copy(f"{kept}.gz", kept.with_name("course-corpus--dictionary--1.json.gz"))
    benchmark.main(line)
    assert "--again measures it anew" in capsys.readouterr().out
    text = (tmp_path / "trained" / "tables.md").read_text()
    assert "| corpus | dictionary |" in text
    assert "| course-corpus, all | 41.7 ± 11.8 |" in text  # mean and standard deviation of 33.3 and 50
    assert "| course-corpus, all | dictionary | 50.0 | 25.0 | 41.7 ± 11.8 | 30.0 to 40.0 |" in text
    benchmark.main([*line, "--tag-again"])
    again = json.loads(kept.read_text())
    assert again["train_seconds"] == result["train_seconds"] and again["scores"]["all"]["f1"] != pytest.approx(1 / 3)
    benchmark.main([*line, "--models", "voting"])
    assert "voting, seed 2, train only: passed over, it needs two of crf, biotagger-gm" in capsys.readouterr().out
