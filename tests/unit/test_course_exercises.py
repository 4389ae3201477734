"""check, hint and solution, on an exercise made here."""

import linecache
import re
import sys

import pytest

import notebooks.exercises
from utils.course import exercises
from utils.course.exercises import check, choose, exercise, grade, hint, solution

NB90 = """
from utils.course.exercises import Wrong, exercise

TWO = 2


def check_double(double):
    for x in (0, 1, -2.5):
        if double(x) != 2 * x:
            raise Wrong(f"double({x}) should be {2 * x}; yours is {double(x)}")


@exercise(
    "90.1",
    "doubling",
    check_double,
    hints=["Think of a sum.", "x + x"],
)
def double(x):
    # Twice.
    return TWO * x


TRIPLE = 3
"""


@pytest.fixture(autouse=True)
def course_of_one_exercise(monkeypatch, tmp_path):
    (tmp_path / "nb90.py").write_text(NB90)
    monkeypatch.setattr(notebooks.exercises, "__path__", [str(tmp_path)])
    monkeypatch.setattr(exercises, "EXERCISES", {})
    monkeypatch.setattr(exercises, "_hints_given", {})
    monkeypatch.delitem(sys.modules, "notebooks.exercises.nb90", raising=False)
    return tmp_path


def stub(x):
    raise NotImplementedError


def returns_none(x):
    return None


def returns_dots(x):
    return ...


def in_a_cell(text):
    """`double` of that text, as a notebook's cell would have defined it."""
    filename, names = "<ipython-input-1-abc>", {}
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    exec(compile(text, filename, "exec"), names)
    return names["double"]


@pytest.mark.parametrize("answer", [lambda x: x + x, lambda x: 2 * x])
def test_any_right_answer_passes(answer):
    assert grade("90.1", answer)[0] is True


def test_a_wrong_answer_is_told_which_property_breaks(capsys):
    assert check("90.1", lambda x: x * x) is None
    assert "double(1) should be 2; yours is 1" in capsys.readouterr().out


def test_a_right_answer_is_gone_on_with_and_no_other(capsys):
    def right(x):
        return x + x

    assert choose("90.1", right, abs) is right and capsys.readouterr().out == "90.1: going on with yours\n"
    for other in (stub, None, returns_none, lambda x: x * x):
        assert choose("90.1", other, abs) is abs
        assert capsys.readouterr().out == "90.1: going on with the version of the course\n"


@pytest.mark.parametrize("answer", [stub, returns_none, returns_dots, None, ...])
def test_an_untouched_stub_is_not_tried_and_raises_nothing(answer):
    passed, message = grade("90.1", answer)
    assert passed is None and "Not tried yet" in message


def test_what_pytorch_has_not_implemented_is_no_stub():
    def draws_whole_numbers(x):
        raise NotImplementedError("\"normal_kernel_cpu\" not implemented for 'Long'")

    passed, message = grade("90.1", draws_whole_numbers)
    assert passed is False and "not implemented for 'Long'" in message


def test_a_forgotten_return_is_pointed_out_whatever_the_check_makes_of_it():
    assert "return missing" in grade("90.1", returns_none)[1]
    assert "return missing" not in grade("90.1", stub)[1]
    exercise("90.2", "one that is content with None", lambda answer: answer(1), hints=[])(stub)
    passed, message = grade("90.2", returns_none)
    assert passed is None and "return missing" in message


def test_an_error_in_the_answer_is_a_message_with_its_line():
    passed, message = grade("90.1", in_a_cell("def double(x):\n    y = x\n    return 1 / 0\n"))
    assert passed is False
    assert re.search(r"your code raised ZeroDivisionError: .*\n.*line 3: return 1 / 0", message)


def test_an_answer_that_the_check_cannot_call():
    passed, message = grade("90.1", 3)
    assert passed is False and "could not use your answer. TypeError" in message


def test_a_failed_assertion_of_a_check_is_a_wrong_answer():
    def check_by_assertion(double):
        # As torch.testing.assert_close does.
        raise AssertionError("Tensor-likes are not close!")

    exercise("90.2", "doubling again", check_by_assertion, hints=[])(stub)
    passed, message = grade("90.2", lambda x: 5)
    assert passed is False and message.endswith("Tensor-likes are not close!")


def test_interrupting_is_not_swallowed():
    def answer(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grade("90.1", answer)


def test_each_call_gives_the_next_hint(capsys):
    texts = []
    for _ in range(4):
        hint("90.1")
        texts.append(capsys.readouterr().out)
    assert [text.split("\n")[0] for text in texts] == [
        "Hint 1 of 2: Think of a sum.",
        "Hint 2 of 2: x + x",
        "Hint 2 of 2: x + x",
        "Hint 2 of 2: x + x",
    ]
    assert ["last hint" in text for text in texts] == [False, False, True, True]


def test_solution_prints_the_function_and_nothing_around_it(capsys):
    solution("90.1")
    printed = capsys.readouterr().out
    assert printed == "# One answer to exercise 90.1, doubling\ndef double(x):\n    # Twice.\n    return TWO * x\n"


@pytest.mark.parametrize("call", [lambda k: check(k, None), hint, solution])
@pytest.mark.parametrize("unknown", ["90.7", "91.1", "x", 90.1])
def test_an_unknown_id_lists_the_known_ones(call, unknown):
    with pytest.raises(ValueError, match=r"no exercise .*; there are: 90\.1"):
        call(unknown)


def test_a_file_that_is_broken_does_not_break_the_others(course_of_one_exercise):
    (course_of_one_exercise / "nb91.py").write_text("def (")
    assert grade("90.1", lambda x: 2 * x)[0] is True
