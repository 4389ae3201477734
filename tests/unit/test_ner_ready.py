"""The tagger that the course brings: found by the command line without a name, whole, small, and as its card says."""

import hashlib
import io
import json
import sys

import pytest

from utils.ner import tagger
from utils.ner.__main__ import main

TEXT = "Mutations in the APC gene cause adenomatous polyposis coli; sulindac and aspirin slow it.\n"
MOST_BYTES = 8_000_000


def run_tag(monkeypatch, capsysbinary, *arguments):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    main(["tag", *arguments])
    return capsysbinary.readouterr().out.decode("utf-8")


def test_without_a_model_it_finds_the_three_types(monkeypatch, capsysbinary):
    record = json.loads(run_tag(monkeypatch, capsysbinary, "--format", "jsonl"))
    found = {(entity["type"], entity["text"]) for entity in record["entities"]}
    assert found == {
        ("Gene", "APC gene"),
        ("Disease", "APC"),  # as NCBI-disease has it, where the gene bears the disease's name
        ("Disease", "adenomatous polyposis coli"),
        ("Chemical", "sulindac"),
        ("Chemical", "aspirin"),
    }


def test_a_model_that_is_named_is_the_one_that_tags(monkeypatch, capsysbinary, tmp_path):
    with pytest.raises(SystemExit, match="holds no tagger"):
        run_tag(monkeypatch, capsysbinary, str(tmp_path))


def test_an_empty_name_is_no_wish_for_the_ready_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="holds no tagger"):
        tagger.load_tagger("")


def test_where_it_is_missing_the_error_says_what_makes_it(monkeypatch, capsysbinary, tmp_path, root):
    monkeypatch.setattr(tagger, "READY", tmp_path / "tagger")
    with pytest.raises(SystemExit, match=r"no ready tagger in .*`python data/make_ready_tagger.py` makes it"):
        run_tag(monkeypatch, capsysbinary)
    assert (root / "data" / "make_ready_tagger.py").is_file()


def test_it_is_small_and_the_card_names_its_bytes():
    files = [path for path in tagger.READY.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    card = tagger.READY.with_suffix(".md").read_text("utf-8")
    models = [path.read_bytes() for path in files if path.suffix == ".crfsuite"]
    assert {path.suffix for path in files} == {".json", ".crfsuite"} and size <= MOST_BYTES
    assert f"({size / 1e6:.1f} MB" in card
    assert len(models) == 3 and all(hashlib.sha256(model).hexdigest() in card for model in models)
