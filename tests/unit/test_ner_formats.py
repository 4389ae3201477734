"""Readers and writers: there and back, and malformed files named with line number, line and what was expected."""

import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.ner.formats import FormatError
from utils.ner.formats.brat import read_brat, write_brat
from utils.ner.formats.conll import read_conll, write_conll
from utils.ner.formats.jsonl import read_jsonl, write_jsonl
from utils.ner.formats.pubtator import read_pubtator, write_pubtator
from utils.ner.sentence import Entity, Sentence
from utils.ner.tags import to_tags

TEXT = "Hepatitis B and C raise α-fetoprotein."
B, C = Entity(0, 11, "Disease"), Entity(0, 17, "Disease", fragments=((0, 9), (16, 17)))
AFP, FETO = Entity(24, 37, "Gene"), Entity(26, 37, "Gene")
NESTED = Sentence(TEXT, None, [B, AFP, FETO], "d1")
WHOLE = Sentence(TEXT, None, [B, C, AFP, FETO], "d2")
EMPTY = Sentence("", None, [], "d3")
IRON, COPPER = Entity(0, 4, "Chemical", concept="D007501"), Entity(9, 15, "Chemical", concept="D003300|D003301")
NAMED = Sentence("Iron and\ncopper", None, [IRON, COPPER, Entity(5, 15, "X")], "n1")

words = st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=5), min_size=1)
sentences = st.lists(
    words.map(lambda found: Sentence.from_words(found, [(0, len(found), "Gene-X")])).filter(
        lambda one: not one.text.startswith("-DOCSTART-")
    ),
    max_size=4,
)


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def concepts(sentence):
    return [entity.concept for entity in sorted(sentence.entities, key=lambda entity: (entity.type, entity.start))]


# -- CoNLL -----------------------------------------------------------------------------------------


@given(sentences)
def test_conll_there_and_back(tmp_path_factory, written):
    path = tmp_path_factory.getbasetemp() / "there.conll"
    write_conll(written, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = read_conll(path)
    assert [(one.text, one.tokens, one.entities) for one in back] == [(x.text, x.tokens, x.entities) for x in written]


def test_conll_with_unknown_types_and_other_columns(tmp_path):
    lines = "\ufeff1 Rosa NN B-plant_part-2\r\n2 canina JJ I-plant_part-2\r\n \r\n\r\n1 x X O"
    path = write(tmp_path / "plain.txt", lines)
    first, second = read_conll(path, token=1)
    assert first.text == "Rosa canina" and first.id == "1" and second.words == ["x"]
    assert first.entities == (Entity(0, 11, "plant_part-2"),)


def test_conll_bioes_is_noticed_and_docstart_left_out(tmp_path):
    path = write(tmp_path / "a.tsv", "-DOCSTART- -X- O O\n\na\tS-X\nb\tB-X\nc\tE-X\n")
    (one,) = read_conll(path)
    assert [entity.text for entity in one.entities] == ["a", "b c"]


def test_conll_nested_layers(tmp_path):
    write_conll([NESTED], tmp_path / "a.tsv", layers=2)
    (back,) = read_conll(tmp_path / "a.tsv", tags=[1, 2])
    assert [entity.text for entity in back.entities] == ["Hepatitis B", "α - fetoprotein", "fetoprotein"]
    with pytest.raises(ValueError, match="1 of 3 entities of sentence 'd1' .* 'fetoprotein', nested"):
        write_conll([NESTED], tmp_path / "b.tsv")
    with pytest.warns(UserWarning, match="b.tsv: entities left out, since the format cannot hold them: 1 nested"):
        write_conll([NESTED], tmp_path / "b.tsv", on_loss="drop")
    assert len(read_conll(tmp_path / "b.tsv")[0].entities) == 2


def test_conll_odd_characters_stay_in_their_token(tmp_path):
    path = write(tmp_path / "a.tsv", "a\u2028b\tB-X\nc\u00a0d\tO\n#\tO\n")
    (one,) = read_conll(path)
    assert one.words == ["a\u2028b", "c\u00a0d", "#"] and one.entities[0].text == "a\u2028b"


def test_conll_orphans_are_entities_with_a_warning(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tO\nb\tI-X\n\nc\tB-X\nd\tI-Y\n")
    with pytest.warns(UserWarning, match="2 tags .* the first in line 2; is a B- missing there"):
        assert [len(one.entities) for one in read_conll(path)] == [1, 2]


def test_conll_ten_thousand_tokens_and_an_empty_file(tmp_path):
    (one,) = read_conll(write(tmp_path / "a.tsv", "x\tB-X\n" * 10_000))
    assert len(one.tokens) == len(one.entities) == 10_000 and set(to_tags(one)) == {"B-X"}
    assert read_conll(write(tmp_path / "b.tsv", "")) == [] == read_conll(write(tmp_path / "c.tsv", "\n\r\n"))
    with pytest.raises(ValueError, match="sentence 'd3' has no tokens, which CoNLL cannot hold"):
        write_conll([EMPTY], tmp_path / "d.tsv")
    assert not (tmp_path / "d.tsv").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ("a\tO\nb\n", r"line 2: 'b'; expected at least 2 columns \(token and tag\), got 1"),
        ("a\tO\nb\tX\n", r"line 2: 'b\tX'; expected O, B-TYPE, I-TYPE ('X' is no BIO tag)"),
        (
            "a\tO\n\nb\tB-Cell Line\n",
            "line 3: .*; expected .* type must be a word without white space, got 'Cell Line'",
        ),
        ("a\tO\n\tO\n", r"line 2: '\tO'; expected a token in column 0"),
        ("a\tO\na\0b\tO\n", "line 2: .*; expected text without NUL bytes"),
        (b"a\tO\n\nb\xff\tO\n", "line 3: .*; expected UTF-8 .*byte 0xff in position 1"),
        ("a\tO\n".encode("utf-16"), "line 1: .*; expected text without NUL"),
    ],
)
def test_malformed_conll(tmp_path, content, message):
    pattern = message if "\\(" in message or ".*" in message else re.escape(message.replace("\\t", "\\t"))
    with pytest.raises(FormatError, match=pattern) as caught:
        read_conll(write(tmp_path / "bad.tsv", content))
    assert re.match(rf"{re.escape(str(tmp_path / 'bad.tsv'))}, line \d: ", str(caught.value))


# -- JSON lines ------------------------------------------------------------------------------------


def test_jsonl_there_and_back(tmp_path):
    odd = Sentence("a\u2028 \0b\r\n", [(0, 1), (4, 5)], [Entity(4, 5, "X")], "odd", "its document")
    written = [NESTED, WHOLE, EMPTY, odd, NAMED]
    write_jsonl(written, tmp_path / "a.jsonl")
    assert read_jsonl(tmp_path / "a.jsonl") == written
    assert concepts(read_jsonl(tmp_path / "a.jsonl")[-1]) == concepts(NAMED) == ["D007501", "D003300|D003301", ""]


def test_jsonl_with_only_a_text(tmp_path):
    lines = '\n{"text": "p53 gene"}\r\n{"id": null, "document": null, "text": ""}\n'
    assert read_jsonl(write(tmp_path / "a.jsonl", lines)) == [Sentence("p53 gene", id="2"), Sentence("", id="3")]


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "JSON like"),
        ("[]", "another type"),
        ("{}", "'text' is missing"),
        ('{"text": 3}', "another type"),
        ('{"text": "ab", "entities": [{"start": 0, "end": 9, "type": "X"}]}', "the text at 0:9, which is 'ab'"),
        (
            '{"text": "ab", "entities": [{"start": 0, "end": 2, "type": "X", "text": "zz"}]}',
            "the text at 0:2, which is 'ab'",
        ),
        ('{"text": "ab", "entities": [{"start": 0, "type": "X"}]}', "'end' is missing"),
        ('{"text": "ab", "entities": [{"start": "0", "end": 1, "type": "X"}]}', "JSON like"),
        ('{"text": "ab", "entities": 5}', "JSON like"),
        ('{"text": "ab", "entities": [{"start": 0, "end": 1, "type": "X", "fragments": [[]]}]}', "do not go in order"),
        ('{"text": "ab", "tokens": [[0, 3]]}', "out of order or outside"),
    ],
)
def test_malformed_jsonl(tmp_path, line, message):
    with pytest.raises(FormatError, match=f"bad.jsonl, line 2: .*{message}"):
        read_jsonl(write(tmp_path / "bad.jsonl", '{"text": "fine"}\n' + line))


# -- PubTator and brat -----------------------------------------------------------------------------


def test_pubtator_reads_documents_and_leaves_relations_out(tmp_path):
    lines = ["1|t|Iron", "1|a|in x", "1\t0\t4\tIron\tChemical\tD007501", "1\tCID\tD1\tD2", "", "2|t|One | two", "2|a|"]
    first, second = read_pubtator(write(tmp_path / "a.txt", "\r\n".join(lines)))
    assert first == Sentence("Iron\nin x", None, [Entity(0, 4, "Chemical")], "1")
    assert second.text == "One | two" and second.id == "2"


def test_pubtator_there_and_back(tmp_path):
    """Title, abstract and concept ids included; a name may run from the one into the other."""
    written = [NESTED, NAMED, Sentence("alone", None, [Entity(0, 5, "X")], "d9"), EMPTY]
    write_pubtator(written, tmp_path / "a.txt")
    back = read_pubtator(tmp_path / "a.txt")
    assert back == written and list(map(concepts, back)) == list(map(concepts, written))
    assert "n1|t|Iron and\nn1|a|copper\nn1\t0\t4\tIron\tChemical\tD007501\n" in (tmp_path / "a.txt").read_text("utf-8")
    for bad, message in [
        (WHOLE, "is in pieces"),
        (Sentence("x"), "needs an id"),
        (Sentence("x", id="a|b"), "needs an id"),
        (Sentence("a\nb\nc", id="d"), "more lines"),
        (Sentence("a\n", id="d"), "more lines"),
        (Sentence("a\tb", id="d"), "has a tab"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_pubtator([bad], tmp_path / "a.txt")


@pytest.mark.parametrize(
    "line, message",
    [
        ("1\t0\t4\tGold\tChemical", "expected the text at 0:4, which is 'Iron'"),
        ("1\t4\t4\t\tChemical", "0 <= start < end"),
        ("2\t0\t4\tIron\tChemical", "expected 1, start, end, text and type"),
        ("1\t0\t4\tIron", "1, start, end, text and type"),
        ("1\t0.0\t4.0\tIron\tChemical", "1, start, end, text and type .*'0.0'"),
        ("1\t-1\t4\tIron\tChemical", "got start -1"),
        ("1\t0\t9\tIron\tChemical", "the text at 0:9, which is 'Iron'"),
        ("1|a|one\n1|a|two", "expected the abstract of 1 right after its title"),
        ("just words", "expected 1, start, end"),
        ("2|a|other", "expected the abstract of 1"),
    ],
)
def test_malformed_pubtator(tmp_path, line, message):
    path = write(tmp_path / "bad.txt", f"1|t|Iron\n{line}\n")
    with pytest.raises(FormatError, match=f"bad.txt, line [23]: .*{message}"):
        read_pubtator(path)
    with pytest.raises(FormatError, match=r"line 1: .*expected a title first, ID\|t\|TEXT"):
        read_pubtator(write(tmp_path / "bad.txt", "1|a|Iron\n"))


def test_brat_there_and_back(tmp_path):
    lines = Sentence("two\r\nlines\nhere", None, [Entity(0, 10, "X")], "lines")
    write_brat([NESTED, WHOLE, EMPTY, lines], tmp_path)
    assert read_brat(tmp_path) == [NESTED, WHOLE, EMPTY, lines]
    assert "Disease 0 9;16 17\tHepatitis C" in (tmp_path / "d2.ann").read_text("utf-8")
    with pytest.raises(ValueError, match="come once; got 'd1'"):
        write_brat([NESTED, NESTED], tmp_path)
    with pytest.raises(ValueError, match="got '../up'"):
        write_brat([Sentence("x", id="../up")], tmp_path)


@pytest.mark.parametrize(
    "line, message",
    [
        ("T1\tX 0 4 Iron", "expected T1, tab, TYPE START END"),
        ("T1\tX 0 9\tIron ore", "the text at 0:9, which"),
        ("T1\tX 4 4\t", "0 <= start < end"),
        ("T1\tX 0 4\tGold", "which is 'Iron'"),
        ("hello", "expected T1"),
    ],
)
def test_malformed_brat(tmp_path, line, message):
    write(tmp_path / "d.txt", "Iron")
    write(tmp_path / "d.ann", f"R1\tCauses Arg1:T1 Arg2:T2\n#1\tNote T1\tfine\n{line}\n")
    with pytest.raises(FormatError, match=f"d.ann, line 3: .*{message}"):
        read_brat(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="no .txt in"):
        read_brat(tmp_path / "none")
