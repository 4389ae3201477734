"""Every exercise: the stub is not accepted, the solution is, and the notebook shows the same stub."""

from pathlib import Path

import pytest

from utils.course.exercises import all_exercises, grade

EXERCISES = all_exercises()
SOURCES = {path.name[:2]: path for path in (Path(__file__).parents[2] / "notebooks" / "src").glob("*_*.py")}


@pytest.fixture(params=list(EXERCISES))
def exercise(request):
    return EXERCISES[request.param]


def test_ids_are_unique_and_numbered_from_one():
    for number in SOURCES:
        ids = [k for k in EXERCISES if k.startswith(f"{number}.")]
        assert ids == [f"{number}.{k + 1}" for k in range(len(ids))]


@pytest.mark.parametrize("number", sorted(SOURCES))
def test_a_notebook_has_three_exercises_or_more(number):
    assert sum(k.startswith(f"{number}.") for k in EXERCISES) >= 3


def test_the_stub_is_not_accepted(exercise):
    passed, message = grade(exercise.id, exercise.run(exercise.stub))
    assert not passed, message


def test_the_untouched_stub_is_called_not_tried(exercise):
    passed, message = grade(exercise.id, exercise.run(exercise.stub))
    assert passed is None, message


def test_the_solution_passes(exercise):
    passed, message = grade(exercise.id, exercise.run(exercise.solution))
    assert passed, message


def test_there_are_hints(exercise):
    assert exercise.title and len(exercise.hints) >= 2 and all(exercise.hints)


def test_the_notebook_poses_the_exercise_with_its_stub(exercise):
    source = SOURCES[exercise.id[:2]].read_text()
    assert f'check("{exercise.id}"' in source
    notebook = exercise.id[:2]
    assert f'hint("{notebook}.' in source and f'solution("{notebook}.' in source
    assert _code(exercise.stub) in _code(source)


def _code(text: str) -> str:
    """Without blank lines and spaces at line ends, which are a matter of layout."""
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())
