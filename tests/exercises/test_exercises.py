"""Every exercise: the notebook's stub is "not tried", and the solution passes, also as it is printed."""

import ast
import functools
import inspect
import re
from pathlib import Path

import jupytext
import pytest

from utils.course import solution
from utils.course.exercises import EXERCISES, find, grade

SOURCES = {path.name[:2]: path for path in (Path(__file__).parents[2] / "notebooks" / "src").glob("*_*.py")}
for number in SOURCES:
    find(f"{number}.1")


@pytest.fixture(params=sorted(EXERCISES))
def exercise(request):
    return EXERCISES[request.param]


def test_ids_are_numbered_from_one():
    for number in SOURCES:
        ids = [k for k in EXERCISES if k.startswith(f"{number}.")]
        assert ids == [f"{number}.{k + 1}" for k in range(len(ids))] and len(ids) >= 3


def test_a_notebook_poses_its_exercises_and_no_others():
    for number, path in SOURCES.items():
        source = path.read_text()
        assert re.findall(r'^check\("(.*?)"', source, re.MULTILINE) == [k for k in EXERCISES if k.startswith(number)]
        assert f'hint("{number}.' in source and f'solution("{number}.' in source


def test_the_untouched_stub_is_called_not_tried(exercise):
    passed, message = grade(exercise.id, stub(exercise))
    assert passed is None and "return missing" not in message, message


def test_a_missing_return_is_not_accepted(exercise):
    passed, message = grade(exercise.id, lambda *arguments, **named: None)
    assert passed is None and "is a return missing?" in message, message


def test_the_solution_passes(exercise):
    passed, message = grade(exercise.id, exercise.solution)
    assert passed, message


def test_the_solution_as_it_is_printed_passes_in_the_notebook(exercise, capsys):
    solution(exercise.id)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 92, "printed lines do not wrap"
    printed = run(text, exercise)
    passed, message = grade(exercise.id, printed)
    assert passed, message
    assert inspect.signature(printed) == inspect.signature(stub(exercise))


def test_an_error_in_an_answer_is_shown_with_its_line(exercise):
    def fail(*arguments, **named):
        raise ZeroDivisionError("mine")

    passed, message = grade(exercise.id, fail)
    assert passed is False and "ZeroDivisionError: mine" in message, message


def test_there_are_hints(exercise):
    assert exercise.title and len(exercise.hints) >= 2 and all(exercise.hints)


def stub(exercise):
    """What the learner starts from: the function of the notebook's cell that ends in `check(id, function)`."""
    found = [cell for cell in code_cells(exercise.id[:2]) if re.search(f'^check."{exercise.id}"', cell, re.MULTILINE)]
    assert len(found) == 1, f"{len(found)} cells check exercise {exercise.id}"
    text, checked = found[0].split(f'check("{exercise.id}", ')
    assert checked == f"{exercise.solution.__name__})"
    return run(text, exercise)


def run(text, exercise):
    """The function that the text defines, where a learner has run the imports, solved what came before, and no more."""
    number = exercise.id[:2]
    before = [other for other in EXERCISES.values() if other.id[:2] == number and other.id < exercise.id]
    names = {**imports(number), **{other.solution.__name__: other.solution for other in before}}
    exec(text, names)
    return names[exercise.solution.__name__]


@functools.cache
def code_cells(number):
    cells = jupytext.reads(SOURCES[number].read_text(), fmt="py:percent").cells
    return [cell.source for cell in cells if cell.cell_type == "code" and "setup" not in cell.metadata.get("tags", ())]


@functools.cache
def imports(number):
    names = {}
    for cell in code_cells(number):
        lines = [line for line in cell.splitlines() if not line.startswith("%")]
        for statement in ast.parse("\n".join(lines)).body:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                exec(ast.unparse(statement), names)
    return names
