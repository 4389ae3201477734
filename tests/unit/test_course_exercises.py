"""check, hint and solution, on an exercise made here."""

import re

import pytest

from utils.course import exercises
from utils.course.exercises import Exercise, Wrong, check, grade, hint, solution


def check_double(double):
    for x in (0, 1, -2.5):
        if double(x) != 2 * x:
            raise Wrong(f"double({x}) should be {2 * x}; yours is {double(x)}")


DOUBLE = Exercise(
    id="90.1",
    title="doubling",
    stub="def double(x):\n    raise NotImplementedError\n",
    hints=["Think of a sum.", "x + x"],
    solution="def double(x):\n    return TWO * x\n",
    entry="double",
    check=check_double,
    setup="TWO = 2",
)


@pytest.fixture(autouse=True)
def course_of_one_exercise(monkeypatch):
    monkeypatch.setattr(exercises, "_modules", lambda: ["nb90"])
    monkeypatch.setattr(exercises, "_load", lambda name: [DOUBLE])
    monkeypatch.setattr(exercises, "_hints_given", {})


def test_any_right_answer_passes():
    for answer in (lambda x: x + x, lambda x: 2 * x, DOUBLE.run(DOUBLE.solution)):
        assert grade("90.1", answer)[0] is True


def test_a_wrong_answer_is_told_which_property_breaks(capsys):
    assert check("90.1", lambda x: x * x) is None
    assert "double(1) should be 2; yours is 1" in capsys.readouterr().out


def returns_none(x):
    return None


def returns_dots(x):
    return ...


@pytest.mark.parametrize("answer", [DOUBLE.run(DOUBLE.stub), returns_none, returns_dots, None, ...])
def test_an_untouched_stub_is_not_tried_and_raises_nothing(answer):
    passed, message = grade("90.1", answer)
    assert passed is None and "Not tried yet" in message


def test_a_forgotten_return_is_pointed_out():
    assert "return missing" in grade("90.1", returns_none)[1]
    assert "return missing" not in grade("90.1", DOUBLE.run(DOUBLE.stub))[1]


def test_an_error_in_the_answer_is_a_message_with_its_line():
    passed, message = grade("90.1", DOUBLE.run("def double(x):\n    y = x\n    return 1 / 0\n"))
    assert passed is False
    # The line is the learner's, counted without the setup that runs before it.
    assert re.search(r"your code raised ZeroDivisionError: .*\n.*line 3: return 1 / 0", message)


def test_an_answer_that_the_check_cannot_call():
    passed, message = grade("90.1", 3)
    assert passed is False and "could not use your answer. TypeError" in message


def test_a_failed_assertion_of_a_check_is_a_wrong_answer(monkeypatch):
    def check_by_assertion(double):
        # As torch.testing.assert_close does.
        raise AssertionError("Tensor-likes are not close!")

    broken = Exercise(**{**vars(DOUBLE), "check": check_by_assertion})
    monkeypatch.setattr(exercises, "_load", lambda name: [broken])
    passed, message = grade("90.1", lambda x: 5)
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


def test_solution_prints_code_that_passes(capsys):
    solution("90.1")
    assert grade("90.1", DOUBLE.run(capsys.readouterr().out))[0] is True


@pytest.mark.parametrize("call", [lambda k: check(k, None), hint, solution])
@pytest.mark.parametrize("unknown", ["90.7", "91.1", "x", 90.1])
def test_an_unknown_id_lists_the_known_ones(call, unknown):
    with pytest.raises(ValueError, match=r"no exercise .*; there are: 90\.1"):
        call(unknown)


def test_a_file_that_is_broken_does_not_break_the_others(monkeypatch):
    def load(name):
        if name == "nb91":
            raise SyntaxError(name)
        return [DOUBLE]

    monkeypatch.setattr(exercises, "_modules", lambda: ["nb90", "nb91"])
    monkeypatch.setattr(exercises, "_load", load)
    assert grade("90.1", lambda x: 2 * x)[0] is True
