"""Lists of names: found, turned round, what stands in for them, and held in memory once."""

import json
from dataclasses import asdict

import pytest

from utils.ner import CRFTagger, Sentence, WordFeatures, lexicons
from utils.ner.features import TokenFeatures
from utils.ner.formats import FormatError
from utils.ner.lexicons import Lexicon, lexicon_for, lexicon_names, load_lexicon


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """COURSE_DATA with three small lists."""
    monkeypatch.setattr(lexicons, "ROOT", tmp_path / "nothing")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    place = tmp_path / "lexicons"
    place.mkdir()
    genes = "GeneID\ttype\tsymbol\n1\tsymbol\tA1BG\n1\tsynonym\tAT\n2\tsymbol\tA1BG\n"
    (place / "genes_ncbi_human.tsv").write_text(genes)
    (place / "diseases_do.tsv").write_text("doid\tterm\ttype\nDOID:1\tangiosarcoma\tname\n")
    (place / "diseases_mesh.tsv").write_text("mesh_id\tname\ttree_numbers\nD1\tAbdomen, Acute\tC23\n")
    (place / "chemicals_mesh.tsv").write_text("mesh_id\tname\ttree_numbers\nD2\tAcid, 5,8,11-Fatty\tD03\n")
    return place


def test_lists_of_the_machine(folder, capsys):
    assert lexicon_names() == ["genes", "diseases", "chemicals"]
    genes = load_lexicon("genes")
    assert genes.names == ("A1BG", "AT") and not genes.lower and not genes.stands_in and len(genes) == 2
    assert genes.typed("GENE") == [("A1BG", "GENE")]  # too short to be told from a word
    assert load_lexicon("diseases").names == ("angiosarcoma", "Abdomen, Acute", "Acute Abdomen")
    assert load_lexicon("chemicals").names == ("Acid, 5,8,11-Fatty", "5,8,11-Fatty Acid")
    assert "genes: 2 names (from COURSE_DATA)" in capsys.readouterr().out


def test_course_data_may_be_the_folder_of_the_lists(folder, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_DATA", str(folder.rename(folder.with_name("mine"))))
    assert len(load_lexicon("genes")) == 2
    monkeypatch.setenv("COURSE_DATA", str(folder / "absent"))
    with pytest.warns(UserWarning, match="absent is no folder"), pytest.raises(FileNotFoundError):
        load_lexicon("genes")


@pytest.mark.parametrize(
    "heading, turned",
    [
        ("Abdomen, Acute", "Acute Abdomen"),
        ("Leukemia, Myeloid, Acute", "Acute Myeloid Leukemia"),
        ("Otosclerosis", "Otosclerosis"),
        ("1,2-Dipalmitoylphosphatidylcholine", "1,2-Dipalmitoylphosphatidylcholine"),
    ],
)
def test_inverted_headings(heading, turned, tmp_path):
    (tmp_path / "diseases_mesh.tsv").write_text(f"name\n{heading}\n")
    assert [*lexicons._read(tmp_path / "diseases_mesh.tsv", "name")] == [heading, turned]


def test_a_broken_list(folder):
    (folder / "genes_ncbi_human.tsv").write_text("GeneID\ttype\n1\tsymbol\n")
    with pytest.raises(FormatError, match="line 1.*a header with a column 'symbol'"):
        load_lexicon("genes")
    (folder / "genes_ncbi_human.tsv").write_text("GeneID\ttype\tsymbol\n1\tsymbol\n")
    with pytest.raises(FormatError, match="line 2.*3 columns with tabs between, got 2"):
        load_lexicon("genes")


def test_without_lists_the_own_train_split_stands_in(monkeypatch, capsys):
    monkeypatch.delenv("COURSE_DATA", raising=False)
    monkeypatch.setattr(lexicons.Path, "exists", lambda self: False)
    genes = load_lexicon("genes")
    assert genes.stands_in and "CYP2C9" in genes.names and "Warfarin" not in genes.names
    assert "mentions in the course's own train split; COURSE_DATA=FOLDER says" in capsys.readouterr().out


def test_names_of_lists_and_types():
    assert [lexicon_for(kind) for kind in ("GENE", "Disease", "Chemical", "protein", "DrugName", "person")] == [
        "genes",
        "diseases",
        "chemicals",
        "genes",
        "chemicals",
        None,
    ]
    with pytest.raises(ValueError, match="unknown lexicon 'species'; choose one of genes, diseases, chemicals"):
        load_lexicon("species")
    assert Lexicon("mine", ("a", "abc")).typed("X") == [("abc", "X")]


def automata(features):
    return list(features._matcher._automata.values())


def test_all_who_use_a_list_hold_one_copy(tmp_path):
    """CRFs of a vote and a network with the same lists: the automaton, most of the memory, is there once."""
    mine = Lexicon("one copy", ("p53", "IL-2"))
    crf = CRFTagger(WordFeatures(lexicons=(mine,)), iterations=1).fit([Sentence("p53")])
    crf.save(tmp_path / "crf")
    loaded = [CRFTagger.load(tmp_path / "crf").features for _ in range(2)]
    loaded.append(TokenFeatures([Lexicon.from_json(json.loads(json.dumps(asdict(mine))))]))
    assert all(features.lexicons == (mine,) for features in loaded)
    of_one_file = automata(WordFeatures(lexicons=(Lexicon("one copy", ("p53", "IL-2")),)))
    assert all(automata(one) == of_one_file for one in loaded)  # automata are equal where they are the same
    assert automata(WordFeatures(lexicons=(Lexicon("one copy", ("p53",)),))) != of_one_file


def test_there_and_back():
    mine = Lexicon("mine", ("a", "b"), False, "here", True)
    assert Lexicon.from_json(json.loads(json.dumps(asdict(mine)))) == mine
