"""Files as annotation tools and users have them: read as they are meant, or refused with the line and what is wrong."""

import json
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.ner.corpora import load_corpus
from utils.ner.formats import FormatError, read_sentences
from utils.ner.formats.brat import read_brat, write_brat
from utils.ner.formats.conll import read_conll, write_conll
from utils.ner.formats.jsonl import read_jsonl, write_jsonl
from utils.ner.formats.pubtator import read_pubtator, write_pubtator
from utils.ner.sentence import Entity, Sentence

GENE = Entity(0, 5, "Gene")
SPAN = {"start": 0, "end": 5, "label": "Gene"}
VALUE = {"start": 0, "end": 5, "text": "GENEX", "labels": ["Gene"]}
RESULT = {"id": "r", "from_name": "label", "to_name": "text", "type": "labels", "value": VALUE}


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def from_record(folder, record):
    return read_jsonl(write(folder / "a.jsonl", record if isinstance(record, str) else json.dumps(record)))


# -- JSON lines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {"text": "GENEX up", "entities": [SPAN]},
        {"text": "GENEX up", "entities": [[0, 5, "Gene"]]},
        {"text": "GENEX up", "entities": [{"start": 0, "end": 6, "type": "Gene", "text": "GENEX "}]},
        {"text": "GENEX up", "entities": [{"start": 0, "end": 6, "type": "Gene", "text": "GENEX"}]},
        {"text": "GENEX up", "spans": [SPAN], "answer": "accept", "tokens": [{"text": "GENEX", "start": 0, "end": 5}]},
        {"text": "GENEX up", "label": [[0, 5, "Gene"]], "Comments": []},
        {"data": "GENEX up", "label": [[0, 5, "Gene"]], "meta": {"year": 2020, "page": 3}},
        {"text": "GENEX up", "labels": [[0, 5, "Gene"]]},
        {"text": "GENEX up", "entities": [{"label": "Gene", "start_offset": 0, "end_offset": 5}], "relations": []},
        {"text": "GENEX up", "annotations": [SPAN]},
        {"text": "GENEX up", "label": [VALUE], "annotator": 1, "annotation_id": 7},
        {"data": {"text": "GENEX up"}, "annotations": [{"result": [RESULT]}], "predictions": [{"id": 1}]},
        {"text": "GENEX up", "ents": [SPAN], "sents": [{"start": 0, "end": 8}], "cats": {}},
        {"text": "GENEX up", "entities": [{"entity_group": "Gene", "score": 0.5, "word": "x", "start": 0, "end": 5}]},
        {"text": "GENEX up", "completions": [{"result": [RESULT, {"type": "relation", "from_id": "r"}]}]},
        {"text": "GENEX up", "spans": [{"begin": 0, "end": 5, "labels": ["Gene"]}], "score": 1, "status": ["done"]},
        ["GENEX up", {"entities": [[0, 5, "Gene"]]}],
        json.dumps([{"text": "GENEX up", "spans": [SPAN]}], indent=2),
        json.dumps([["GENEX up", {"entities": [[0, 5, "Gene"]]}]]),
    ],
)  # fmt: skip
def test_what_annotation_tools_export_is_read(tmp_path, record):
    (one,) = from_record(tmp_path, record)
    assert one.text == "GENEX up" and one.entities == (GENE,) and one.entities[0].text == "GENEX"


@pytest.mark.parametrize(
    "key, value",
    [
        ("entites", [SPAN]),
        ("Entities", [SPAN]),
        ("named_entities", [[0, 5, "Gene"]]),
        ("mentions", [SPAN]),
        ("genes", [[0, 5, "GENEX"]]),
        ("denotations", [{"span": {"begin": 0, "end": 5}, "obj": "Gene"}]),
        ("ner_tags", ["B-Gene", "O"]),
        ("iob", ["O", "B-Gene"]),
        ("gold", [["Gene", 0, 5]]),
        ("predictions", [{"result": [RESULT]}]),
        ("extra", {"genes": {"all": [{"start": 0, "end": 5}]}}),
        ("hits", [{"value": [{"offset": 0, "length": 5}]}]),
        ("start", 0),
    ],
)
def test_another_key_that_looks_like_annotation_is_named(tmp_path, key, value):
    with pytest.raises(FormatError, match=f"a.jsonl, line 1: .*the key '{key}' looks like annotation; rename it"):
        from_record(tmp_path, {"text": "GENEX up", key: value})
    assert from_record(tmp_path, {"text": "x", "pos_tags": ["NN"], "meta": {"start": 1, "tags": ["a"]}, "label": "pos"})


@pytest.mark.parametrize(
    "record, message",
    [
        ({"text": "GENEX", "labels": ["O", "B-Gene"]}, "'labels' holds 'O', expected spans"),
        ({"text": "GENEX", "entities": {"Gene": [[0, 5]]}}, "'entities' holds 'Gene', expected spans"),
        ({"text": "GENEX", "label": [[0, 5]]}, "JSON like"),
        ({"text": "GENEX", "label": [[0, 5, []]]}, "must be a word .*got ''"),
        ({"text": "GENEX", "label": [{**VALUE, "labels": []}]}, "must be a word .*got ''"),
        ({"text": "GENEX", "spans": [{"start": 0, "end": 5}]}, "'type' is missing"),
        ({"text": "a b", "entities": [{"start": 1, "end": 2, "type": "X"}]}, "the text at 1:2, which is ' '"),
        ({"text": "GENEX", "entities": [{**SPAN, "score": "high"}]}, "could not convert"),
        ({"text": "GENEX", "entities": [{**SPAN, "concept": "D1\tD2"}]}, "a concept has no tab"),
        ({"text": "GENEX", "entities": [{**SPAN, "fragments": [[0, 3], [2, 5]]}]}, "do not go in order"),
        ({"text": "GENEX \ud800"}, "surrogates not allowed"),
        ({"text": "GENEX", "id": "\udfff"}, "surrogates not allowed"),
        ('{"text": "a"', "JSON like"),
        ('[{"text": "a"}\n', "a ] behind the last record"),
        ('[{"text": "a"}, {"text": 5}]', "another type"),
        ('[{"text": "a"}, {"text": "b"}] [{"text": "c"}, {"text": "d"}]', "another type"),
        ("[" * 100_000, "JSON like"),
        ('{"text": ' + '{"a":' * 100_000, "JSON like"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(tmp_path, record, message):
    with pytest.raises(FormatError, match=f"a.jsonl, line 1: .*{message}"):
        from_record(tmp_path, record)


def test_records_of_an_array_are_named_by_their_line_and_rejected_ones_said(tmp_path):
    text = json.dumps([{"text": "a"}, {"text": "b", "entites": [SPAN]}], indent=1)
    with pytest.raises(FormatError, match="a.jsonl, line 5: .*'entites'"):
        from_record(tmp_path, text)
    with pytest.warns(UserWarning, match="a.jsonl, line 2: left out, its answer is 'reject'"):
        (one,) = from_record(tmp_path, '{"text": "a"}\n{"text": "GENEX", "spans": [], "answer": "reject"}')
    assert [one.id, one.text] == ["1", "a"]
    assert [s.id for s in read_sentences(write(tmp_path / "b.json", json.dumps([{"text": "a"}, {"text": "b"}])))] == [
        "1",
        "1",
    ]


def test_concept_and_score_and_null_names(tmp_path):
    written = Sentence("GENEX up", None, [Entity(0, 5, "Gene", concept="D1", score=0.25), Entity(6, 8, "relation")])
    write_jsonl([written], tmp_path / "a.jsonl")
    (back,) = read_jsonl(tmp_path / "a.jsonl")
    assert back == written
    assert (back.entities[0].concept, back.entities[0].score, back.document) == ("D1", 0.25, "")


# -- PubTator --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "1\t0.0\t5.0\tGENEX\tGene",
        "1\t-1\t5\tGENEX\tGene",
        "1\tGENEX\tGene\t0\t5",
        "1\tGene\tGENEX\t0\t5",
        "1\tGENEX\t0\t5\tGene",
        "1\tGene\t0\t5\tGENEX",
        "1\tGene\t0\t5",
        "1\tGENEX\t0\t5",
        "1\tGENEX\tGene\t0\t5\tD1",
        "1\t\t5\tGENEX\tGene",
        "1\t5\t0\tGENEX\tGene",
        "1\tnan\t5\tGENEX\tGene",
        "1\tCID\tD1 D2\tD3",
    ],
)
def test_a_pubtator_line_in_another_form_is_refused(tmp_path, line):
    with pytest.raises(FormatError, match="a.txt, line 3"):
        read_pubtator(write(tmp_path / "a.txt", f"1|t|GENEX up\n1|a|\n{line}\n"))


@pytest.mark.parametrize(
    "relation",
    ["CID\tD1\tD2", "Association\t672\tD2", "Bind\t672\t7157\tNovel", "CPR:3\tArg1:T1\tArg2:T2", "X\trs1\t-"],
)
def test_pubtator_relations_are_known_by_their_form(tmp_path, relation):
    lines = ["1|t|GENEX up", "1\t 0\t5\tGENEX\tGene\t672", "1\t6\t8\tup\tX\t7157;-", f"1\t{relation}"]
    (one,) = read_pubtator(write(tmp_path / "a.txt", "\r".join(lines)))
    assert [(entity.span, entity.concept) for entity in one.entities] == [
        ((0, 5, "Gene"), "672"),
        ((6, 8, "X"), "7157;-"),
    ]


def test_pubtator_keeps_title_and_concepts_and_drops_pieces_only_when_told(tmp_path):
    text = "1|t|One title | more\n1|a|An abstract\n1\t0\t3\tOne\tX\tD1|D2\n1\t4\t9\ttitle\tX\n\n"
    read = read_pubtator(write(tmp_path / "a.pubtator", text))
    write_pubtator(read, tmp_path / "b.pubtator")
    assert (tmp_path / "b.pubtator").read_text("utf-8") == text
    pieces = Sentence("a b c", None, [Entity(0, 5, "X", fragments=((0, 1), (4, 5))), Entity(0, 1, "X")], "1")
    with pytest.raises(ValueError, match='is in pieces; PubTator cannot hold it, on_loss="drop" leaves it out'):
        write_pubtator([pieces], tmp_path / "c.pubtator")
    with pytest.warns(UserWarning, match="c.pubtator: entities left out, .*: 1 discontinuous"):
        write_pubtator([pieces], tmp_path / "c.pubtator", on_loss="drop")
    assert len(read_pubtator(tmp_path / "c.pubtator")[0].entities) == 1


# -- brat ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, entity",
    [
        ("Gene 7 11;12 17\theat shock", Entity(7, 17, "Gene")),
        ("Gene 7 9;9 11\the at", Entity(7, 11, "Gene")),
        ("Gene 7 9;9 11\theat", Entity(7, 11, "Gene")),
        ("Gene 12 17;3 6\tshock saw", Entity(3, 17, "Gene", fragments=((3, 6), (12, 17)))),
        ("Gene 12 17;3 6\tsaw shock", Entity(3, 17, "Gene", fragments=((3, 6), (12, 17)))),
        ("Gene 6 12\t heat ", Entity(7, 11, "Gene")),
        ("Gene 6 11\theat", Entity(7, 11, "Gene")),
        ("Gene 0 2;7 11;12 17\tWe heat shock", Entity(0, 17, "Gene", fragments=((0, 2), (7, 17)))),
    ],
)
def test_brat_fragments(tmp_path, line, entity):
    write(tmp_path / "a.txt", "We saw heat\nshock")
    write(tmp_path / "a.ann", f"N1\tReference T1 MESH:D1\theat\nT1\t{line}\n*\tEquiv T1 T1\nR1\tX Arg1:T1 Arg2:T1\n")
    (one,) = read_sentences(tmp_path / "a.ann")
    assert one.entities == (entity,) and one.entities[0].concept == "MESH:D1" and one.id == "a"
    assert read_brat(tmp_path) == [one] == read_brat(tmp_path / "a.txt")
    write_brat([one], tmp_path / "new")
    assert read_brat(tmp_path / "new") == [one] and read_brat(tmp_path / "new")[0].entities[0].concept == "MESH:D1"


def test_brat_pairs_that_are_none(tmp_path):
    write(tmp_path / "a.ann", "T1\tX 0 1\tx\n")
    with pytest.raises(ValueError, match=r"no a.txt, only its annotation, in "):
        read_brat(tmp_path)
    with pytest.raises(OSError, match=r"a\.txt"):
        read_brat(tmp_path / "a.ann")
    with pytest.raises(ValueError, match="holds a.ann, with which these pairs would be mixed; choose an empty folder"):
        write_brat([Sentence("x", id="b")], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ann"]
    write_brat([Sentence("x", id="a")], tmp_path)
    write_brat([Sentence("y", id="a"), Sentence("z", id="b")], tmp_path)
    assert [one.text for one in read_brat(tmp_path)] == ["y", "z"]
    for number, lines in enumerate(("ENTITY1\tX 0 1\tz\n", "T1\tX 0 1\tz\nT1\tY 0 1\tz\n"), 1):
        write(tmp_path / "b.ann", lines)
        with pytest.raises(FormatError, match=rf"b.ann, line {number}: .*expected T1, tab"):
            read_brat(tmp_path)
    (tmp_path / "b.ann").rename(tmp_path / "b.a1")
    write(tmp_path / "b.a1", "T1\tX 0 1\tz\n")
    assert len(read_brat(tmp_path)[1].entities) == 1


# -- CoNLL -----------------------------------------------------------------------------------------


def test_conll_separators_and_line_ends(tmp_path):
    (one,) = read_conll(write(tmp_path / "a", "5\u00a0mg NN O\nof  IN   O\u0020\nGENE\u2003X NN B-Gene\n"))
    assert one.words == ["5\u00a0mg", "of", "GENE\u2003X"] and one.entities[0].text == "GENE\u2003X"
    for ends in ("\r", "\n", "\r\n", "\r\r\n"):
        lines = ["\ufeffa\tB-X", "b\tO", "", "\ufeffc\tL-X", ""]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first, second = read_conll(write(tmp_path / "a", ends.join(lines)))
        assert first.words == ["a", "b"] and second.words == ["c"] and second.entities[0].text == "c"


@pytest.mark.parametrize(
    "text, message",
    [
        ("of IN O\n5 mg NN O\n", "line 2: .*expected 3 columns as in line 1, got 4"),
        ("\nof\tIN\tO\n\n\nmg\tO\n", "line 5: .*expected 3 columns as in line 2, got 2"),
        ("a\tO\t\nb\tO\n", "line 2: .*expected 3 columns"),
        ("a\tB-Cell Line\n", "line 1: .*must be a word without white space"),
        ("a O\n# a free remark\n", "line 2: .*expected 2 columns"),
        ("a O\rb  c O\r", "line 2: .*expected 2 columns"),
    ],
)
def test_uneven_conll_is_named(tmp_path, text, message):
    with pytest.raises(FormatError, match=message):
        read_conll(write(tmp_path / "a", text))


def test_conll_comments_and_documents(tmp_path):
    hashes = read_conll(write(tmp_path / "hashes", "#x= B-Y\n#newdoc B-Y\n"))
    assert [entity.text for entity in hashes[0].entities] == ["#x=", "#newdoc"]
    assert read_conll(write(tmp_path / "mixed", "a\tO\n# B-Y\nb O\n"))[0].entities[0].text == "#"
    text = (
        "-DOCSTART- -X- O O\n\n# sent_id = s-1\n# text = a # b\na\tX\tB-Y\n#\tX\tI-Y\n\n# a remark\nb\tX\tO\n"
        "-DOCSTART- (10192393)\n\nc\tX\tO\n\n# newdoc id = d3\n# text = d\td\nd\tX\tO\n"
        "#begin document (bc/1); part 000\ne\tX\tO\n"
    )
    found = read_conll(write(tmp_path / "a.tsv", text))
    assert [(one.id, one.document, one.text) for one in found] == [
        ("s-1", "1", "a #"), ("2", "1", "b"), ("3", "10192393", "c"), ("4", "d3", "d"), ("5", "bc/1", "e")
    ]  # fmt: skip
    spaces = "# sent_id = 1\n# text = a # b\na X B-Y\n# X I-Y\n"
    assert [one.text for one in read_conll(write(tmp_path / "a.txt", spaces))] == ["a #"]
    with pytest.raises(ValueError, match="cannot stand in a column"):
        write_conll([Sentence.from_words(["# text = a"])], tmp_path / "b.tsv")


def test_conll_in_bilou(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tU-X\nb\tB-X\nc\tI-X\nd\tL-X\ne\tO\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing was repaired
        (one,) = read_conll(path)
    assert [entity.text for entity in one.entities] == ["a", "b c d"]


# -- all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, text",
    [
        (
            "a.jsonl",
            '{"text": "Iron", "entities": [{"start": 0, "end": 4, "type": "X", "text": "Gold"}, '
            '[0, 9, "X"], [0, 4, "X"]]}',
        ),
        ("a.pubtator", "1|t|Iron\n1\t0\t4\tGold\tX\n1\t0\t9\tIron\tX\n1\t0\t4\tIron\tX\n"),
        ("a.ann", "T1\tX 0 4\tGold\nT2\tX 0 9\tIron\nT3\tX 0 4\tIron\n"),
    ],
)  # fmt: skip
def test_a_mismatch_can_be_skipped_everywhere(tmp_path, name, text):
    write(tmp_path / "a.txt", "Iron")
    write(tmp_path / name, text)
    with pytest.raises(FormatError, match='mismatch="skip" leaves it out'):
        read_sentences(tmp_path / name)
    with pytest.warns(UserWarning, match="left out, the text there is 'Iron'") as said:
        (one,) = read_sentences(tmp_path / name, mismatch="skip")
    assert one.entities == (Entity(0, 4, "X"),) and len(said) == 2
    with pytest.raises(ValueError, match="unknown mismatch 'Skip'; choose one of refuse, skip"):
        read_sentences(tmp_path / name, mismatch="Skip")


def test_a_folder_of_brat_folders_is_a_corpus(tmp_path, capsys):
    for split, text in (("train", "GENEX up"), ("dev", "GENEY")):
        write_brat([Sentence(text, None, [GENE], split)], tmp_path / split)
    write(tmp_path / "test.pubtator.txt", "1|t|GENEX\n1\t0\t5\tGENEZ\tGene\n")
    corpus = load_corpus(tmp_path, mismatch="skip")
    assert corpus.train[0].entities == (GENE,) == corpus.dev[0].entities and corpus.splits == ("train", "dev", "test")
    with pytest.warns(UserWarning, match="'GENEZ' left out"):
        assert corpus.test[0].entities == ()
    assert "(train, dev, test)" in capsys.readouterr().out


FILES = {
    "pubtator": "1|t|GENEX up\n1|a|in x\n"
    "1\t0\t5\tGENEX\tGene\tD1\n1\t6\t8\tup\tVerb\n1\t12\t13\tx\tX\n1\tCID\tD1\tD2\n",
    "jsonl": '{"text": "GENEX up", "entities": [{"start": 0, "end": 5, "type": "Gene"}, [6, 8, "V"]]}\n',
    "conll": "GENEX\tN\tB-Gene\nup\tV\tO\n\nin\tI\tO\nx\tN\tB-X\ny\tN\tI-X\n",
    "brat": "T1\tGene 0 5\tGENEX\nT2\tVerb 6 8;10 11\tup x\nN1\tReference T1 A:1\tGENEX\nR1\tX Arg1:T1 Arg2:T2\n",
}


@pytest.mark.parametrize("form", list(FILES))
@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_file_with_a_slip_keeps_every_annotation_or_says_so(tmp_path_factory, form, data):
    """One to three characters changed, lost or put in: as many entities as before, an error, or a warning."""
    text = FILES[form]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        new = data.draw(
            st.sampled_from(
                ["", "\t", " ", "\n", "\r", "#", "-", "0", "7", ".", "e", "E", "|", "\u00a0", "\ufeff", '"']
            )
        )
        text = text[:place] + new + text[place + data.draw(st.integers(0, 1)) :]
    path = write(tmp_path_factory.getbasetemp() / f"slip.{'ann' if form == 'brat' else form}", text)
    write(path.with_suffix(".txt"), "GENEX up, x")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = read_sentences(path, form)
        except ValueError as error:
            assert path.name in str(error)
            return
    count = 3 if form == "pubtator" else 2
    assert said or sum(len(one.entities) for one in found) >= count, text
