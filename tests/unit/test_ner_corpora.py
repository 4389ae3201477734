"""load_corpus: the order of sources, downloads from a local server, the course's own corpus in place of others."""

import hashlib
import http.server
import json
import os
import shutil
from pathlib import Path

import pytest

from utils.files import download
from utils.ner import CRFTagger, evaluate
from utils.ner import corpora as library
from utils.ner.corpora import corpus_names, load_corpus

HERE = Path(__file__).resolve().parents[2]
FILES = {f"{split}.tsv": f"{split}word\tB-Gene\n\n".encode() for split in ("train", "dev", "test")}
FILES["official/test.in"] = b"ID7 testword\n"
FILES["official/test.GENE.eval"] = FILES["official/test.ALTGENE.eval"] = b"ID7|0 7|testword\n"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind, _, name = self.path[1:].partition("/")
        content = FILES.get(name)
        if content is None or kind == "absent" or (kind == "unofficial" and name.startswith("official")):
            return self.send_error(404)
        if kind == "slow":
            return self.server.released.wait(20)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:5] if kind == "half" else content[::-1] if kind == "wrong" else content)


@pytest.fixture
def server(serve):
    return serve(Handler)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A checkout with a sources.json of one corpus, the course's own corpus and nothing else."""
    (tmp_path / "data" / "ner").mkdir(parents=True)
    shutil.copytree(HERE / "data" / "course-corpus", tmp_path / "data" / "course-corpus")
    monkeypatch.setattr(library, "ROOT", tmp_path)
    monkeypatch.delenv("COURSE_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    describe(tmp_path, "http://127.0.0.1:9/")  # the discard port: nobody listens
    return tmp_path


def describe(root, address):
    files = {
        name: {"url": address + name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in FILES.items()
    }
    about = {"splits": ["train", "dev", "test"], "stand_in": {"GENE": "Gene"}, "files": files, "page": "a page"}
    (root / "data" / "ner" / "sources.json").write_text(json.dumps({"tiny": about}))


def put(folder, word):
    for split in ("train", "dev", "test"):
        (folder / f"{split}.tsv").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.tsv").write_text(f"{word}\tB-Gene\n")


def test_the_order_of_sources(bare, server, monkeypatch, capsys):
    """Cache before COURSE_DATA before the public source before the course's own; each is said in one line."""
    corpus = load_corpus("tiny")
    assert corpus.stands_in and "tiny: the small corpus written for this course: no copy" in capsys.readouterr().out
    assert {entity.type for one in corpus.test for entity in one.entities} == {"Gene"} == set(corpus.types)
    describe(bare, f"{server}whole/")
    assert load_corpus("tiny").test[0].id == "ID7"
    assert capsys.readouterr().out.endswith("tiny: downloaded (train, dev, test)\n")
    put(bare / "mine" / "ner" / "tiny", "mine")
    monkeypatch.setenv("COURSE_DATA", str(bare / "mine"))
    describe(bare, "http://127.0.0.1:9/")
    assert load_corpus("tiny").train[0].text == "trainword"
    assert capsys.readouterr().out == "tiny: from the cache (train, dev, test)\n"
    (bare / "data" / "cache" / "ner" / "tiny" / "dev.tsv").write_text("damaged\tO\n")
    with pytest.warns(UserWarning, match="dev.tsv is damaged .* passed over; delete it"):
        assert load_corpus("tiny").train[0].text == "mine"
    assert capsys.readouterr().out == "tiny: from COURSE_DATA (train, dev, test)\n"


@pytest.mark.parametrize("below, named", [("ner/tiny", "~"), ("mine/tiny", "~/mine"), ("mine/tiny", "~/mine/tiny")])
def test_where_a_corpus_may_lie_in_course_data(bare, monkeypatch, capsys, below, named):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(bare))
    put(bare / below, "mine")
    monkeypatch.setenv("COURSE_DATA", named)
    assert load_corpus("tiny").train[0].text == "mine"
    assert capsys.readouterr().out == "tiny: from COURSE_DATA (train, dev, test)\n"


def test_a_folder_with_the_splits_of_who_knows_which_corpus_is_not_taken_for_this_one(bare, monkeypatch):
    put(bare / "other", "mine")
    monkeypatch.setenv("COURSE_DATA", str(bare / "other"))
    with pytest.warns(UserWarning, match="COURSE_DATA=.*other has no train.tsv, dev.tsv, test.tsv in ner/tiny or tiny"):
        assert load_corpus("tiny").stands_in


def test_the_official_files_come_along_but_are_not_needed(bare, server):
    describe(bare, f"{server}unofficial/")
    corpus = load_corpus("tiny")
    assert corpus.test[0].id == "1" and not corpus.stands_in
    with pytest.raises(ValueError, match="no official alternatives for tiny test"):
        corpus.official("test")
    shutil.rmtree(bare / "data" / "cache")
    describe(bare, f"{server}whole/")
    assert load_corpus("tiny").official("test").genes == {"ID7": [(0, 7)]}
    with pytest.raises(ValueError, match="no official alternatives for tiny train"):
        load_corpus("tiny").official("train")


@pytest.mark.parametrize("kind", ["half", "wrong", "absent"])
def test_a_failed_download_leaves_nothing_and_the_own_corpus_stands_in(bare, server, kind, capsys):
    describe(bare, f"{server}{kind}/")
    assert load_corpus("tiny").stands_in
    assert "the small corpus written for this course" in capsys.readouterr().out
    assert not [path for path in (bare / "data" / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "kind, message",
    [
        ("half", "broke off after 5 of 18 bytes; try again"),
        ("wrong", "has SHA-256 .*, expected .*; it was not kept"),
        ("absent", "404"),
        ("slow", "timed out"),
    ],
)
def test_download(server, tmp_path, kind, message):
    sha256 = hashlib.sha256(FILES["train.tsv"]).hexdigest()
    with pytest.raises(OSError, match=message):
        download(f"{server}{kind}/train.tsv", tmp_path / "a.tsv", sha256, timeout=0.5 if kind == "slow" else 20)
    assert list(tmp_path.iterdir()) == []
    download(f"{server}whole/train.tsv", tmp_path / "a.tsv", sha256)
    assert (tmp_path / "a.tsv").read_bytes() == FILES["train.tsv"]


def test_unknown_names_and_missing_splits(bare):
    with pytest.raises(ValueError, match="unknown corpus 'genia'; choose one of tiny, course-corpus, or read your own"):
        load_corpus("genia")
    corpus = load_corpus("tiny")
    corpus.splits = ("dev", "test")
    with pytest.raises(ValueError, match="tiny has no split 'train'; choose one of dev, test"):
        _ = corpus.train


def test_a_folder_of_ones_own_with_a_type_that_the_course_never_names(tmp_path, capsys):
    """From a plain CoNLL file to a score, as a user would do it."""
    line = "The\tO\n{}\tB-Mineral\nlies\tO\nnear\tO\nthe\tO\nriver\tO\n\n"
    minerals = ("Quartz", "Feldspar", "Olivine", "Rutile", "Topaz", "Zircon", "Spinel", "Beryl")
    (tmp_path / "train.conll").write_text("".join(map(line.format, minerals)) * 3)
    (tmp_path / "test.conll").write_text(line.format("Garnet") + line.format("Topaz"))
    corpus = load_corpus(tmp_path)
    assert (corpus.splits, corpus.types, corpus.stands_in) == (("train", "test"), ["Mineral"], False)
    assert capsys.readouterr().out == f"{tmp_path.name}: a folder of your own (train, test)\n"
    tagger = CRFTagger(progress=False).fit(corpus.train)
    assert evaluate(corpus.test, tagger.predict(corpus.test)).per_type["Mineral"].f1 == 1
    with pytest.raises(ValueError, match="has no split 'dev'; choose one of train, test"):
        _ = corpus.dev


def test_a_folder_that_says_too_little_or_too_much(tmp_path):
    with pytest.raises(ValueError, match="has no split; expected files train, dev and test or some of them, ending in"):
        load_corpus(tmp_path)
    for ending in ("conll", "jsonl"):
        (tmp_path / f"dev.{ending}").write_text("")
    with pytest.raises(ValueError, match="has dev.conll and dev.jsonl; expected one file a split"):
        load_corpus(str(tmp_path))


def test_the_courses_own_corpus(capsys):
    corpus = load_corpus("course-corpus")
    assert capsys.readouterr().out.count("\n") == 1 and not corpus.stands_in
    assert sum(len(corpus.split(split)) for split in corpus.splits) >= 150
    assert corpus.types == ["CHEMICAL", "DISEASE", "GENE"]


def test_what_the_repository_says_of_each_corpus():
    sources = library._sources()
    assert {"ncbi-disease", "bc5cdr", "bc2gm"} < set(corpus_names())
    for name, about in sources.items():
        assert set(about["stand_in"]) <= {"CHEMICAL", "DISEASE", "GENE"}
        assert about["terms"] and about["page"] and about["about"]
        for file, one in about["files"].items():
            assert len(one["sha256"]) == 64 and one["bytes"] > 0 and one["url"].startswith("https://"), (name, file)


@pytest.mark.slow
def test_the_public_corpora(capsys):
    """Entities of each test split, as data/ner's table counts them."""
    if not os.environ.get("COURSE_DATA"):
        pytest.skip("needs the public corpora; COURSE_DATA=FOLDER with ner/<corpus>/test.tsv runs it")
    expected = {"ncbi-disease": 960, "bc5cdr": 9809, "wnut17": 1079, "genia-nested": 5474, "ctp-eligibility": 2408}
    for name, count in expected.items():
        assert sum(len(one.entities) for one in load_corpus(name).test) == count
    with pytest.raises(ValueError, match="genia-nested has no split 'train'; choose one of dev, test"):
        _ = load_corpus("genia-nested").train
