"""Lists of names: found, turned round, and what stands in for them."""

import pytest

from utils.ner import lexicons
from utils.ner.formats.files import FormatError
from utils.ner.lexicons import Lexicon, lexicon_for, lexicon_names, load_lexicon, turn_heading


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


@pytest.mark.parametrize("heading, turned", [
    ("Abdomen, Acute", "Acute Abdomen"), ("Leukemia, Myeloid, Acute", "Acute Myeloid Leukemia"),
    ("Otosclerosis", "Otosclerosis"), ("1,2-Dipalmitoylphosphatidylcholine", "1,2-Dipalmitoylphosphatidylcholine"),
])  # fmt: skip
def test_inverted_headings(heading, turned):
    assert turn_heading(heading) == turned


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
        "genes", "diseases", "chemicals", "genes", "chemicals", None]  # fmt: skip
    with pytest.raises(ValueError, match="unknown lexicon 'species'; choose one of genes, diseases, chemicals"):
        load_lexicon("species")
    assert Lexicon("mine", ("a", "abc")).typed("X") == [("abc", "X")]
