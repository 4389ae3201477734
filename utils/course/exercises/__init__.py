"""Exercises: `check` an answer, ask for a `hint`, see a `solution`.

The exercises of notebook NN are in nbNN.py beside this file, as a list named EXERCISES.
"""

import functools
import importlib
import linecache
import pkgutil
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Wrong(Exception):
    """Raised by a check; its message says which property is broken and what was seen."""


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        id: "NN.k", notebook and number.
        title: a few words.
        stub: the source the learner starts from; it defines `entry`.
        hints: from the first nudge to nearly the answer.
        solution: source that defines `entry` and passes the check.
        entry: the name of the function, class or value that is checked.
        check: takes the learner's object; raises `Wrong` unless it is right. It accepts any right answer.
        setup: source that runs before the stub or the solution, for what the notebook has defined by then.
    """

    id: str
    title: str
    stub: str
    hints: list[str]
    solution: str
    entry: str
    check: Callable[[Any], None]
    setup: str = ""

    def run(self, source: str) -> Any:
        """The object named `entry` after running `setup` and then `source` (the stub or the solution)."""
        namespace: dict[str, Any] = {"__name__": f"exercise_{self.id}"}
        for part, text in (("setup", self.setup), ("answer", source)):
            filename = f"<exercise {self.id} {part}>"
            # So that inspect.getsource and error messages find the lines.
            linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
            exec(compile(text, filename, "exec"), namespace)
        return namespace[self.entry]


_hints_given: dict[str, int] = {}


def check(exercise_id: str, answer: Any) -> None:
    """Print whether `answer` is right and, if not, which property is broken. A wrong one raises nothing."""
    print(grade(exercise_id, answer)[1])


def hint(exercise_id: str) -> None:
    """Print a hint; each call gives the next one."""
    exercise = find(exercise_id)
    given = _hints_given.get(exercise_id, 0)
    k = min(given, len(exercise.hints) - 1)
    _hints_given[exercise_id] = given + 1
    print(f"Hint {k + 1} of {len(exercise.hints)}: {exercise.hints[k]}")
    if given >= len(exercise.hints):
        print(f'That was the last hint; solution("{exercise_id}") shows one way.')


def solution(exercise_id: str) -> None:
    """Print the source of one right answer."""
    exercise = find(exercise_id)
    print(f"# One answer to exercise {exercise.id}, {exercise.title}\n{exercise.solution.strip()}")


def grade(exercise_id: str, answer: Any) -> tuple[bool | None, str]:
    """What `check` prints, and whether the answer is right (True), wrong (False) or not there yet (None)."""
    exercise = find(exercise_id)
    name = f"Exercise {exercise.id} ({exercise.title})"
    not_tried = (None, f"… Not tried yet: {name}. Write your answer in place of the stub and run the cell again.")
    if answer is None or answer is ...:
        return not_tried
    watched, returned = _watch(answer)
    try:
        exercise.check(watched)
    except NotImplementedError:
        return not_tried
    except Exception as error:
        # A function that has returned nothing at all is the stub, whatever the check made of it.
        if returned and all(value is None or value is ... for value in returned):
            return None, f"{not_tried[1]} (If you did: it returned None; is a return missing?)"
        return False, f"✗ {name}: {_explain(error)}"
    return True, f"✓ {name}: right."


def find(exercise_id: str) -> Exercise:
    """The exercise of that id.

    Raises:
        ValueError: there is none; the message lists the ids of that notebook or, without one, of all.
    """
    module = f"nb{str(exercise_id)[:2]}"
    # Only this notebook's file is loaded, unless the message needs them all.
    candidates = _load(module) if module in _modules() else list(all_exercises().values())
    for exercise in candidates:
        if exercise.id == exercise_id:
            return exercise
    known = ", ".join(exercise.id for exercise in candidates)
    raise ValueError(f"no exercise {exercise_id!r}; there are: {known or 'none yet'}")


def all_exercises() -> dict[str, Exercise]:
    """Every exercise of the course by its id, in order."""
    return {exercise.id: exercise for name in _modules() for exercise in _load(name)}


def _modules() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name.startswith("nb"))


def _load(name: str) -> list[Exercise]:
    return importlib.import_module(f"{__name__}.{name}").EXERCISES


def _watch(answer: Any) -> tuple[Any, list[Any]]:
    """A plain function wrapped so that what it returns is noted; anything else as it is."""
    returned: list[Any] = []
    if not isinstance(answer, types.FunctionType):
        return answer, returned

    @functools.wraps(answer)
    def watched(*args: Any, **kwargs: Any) -> Any:
        value = answer(*args, **kwargs)
        returned.append(value)
        return value

    return watched, returned


def _explain(error: Exception) -> str:
    if isinstance(error, (Wrong, AssertionError)):
        return str(error) or "a property that the check asserts does not hold"
    kind = f"{type(error).__name__}: {error}"
    place = _learners_line(error)
    if place is None:
        return f"the check could not use your answer. {kind}"
    return f"your code raised {kind}\n    at line {place.lineno}: {place.line}"


def _learners_line(error: Exception) -> traceback.FrameSummary | None:
    """The innermost line of a notebook cell (or of an exercise's own source) on the way to the error."""
    frames = traceback.extract_tb(error.__traceback__)
    # As ipykernel, older IPython (Colab's) and Exercise.run name the source of a cell.
    marks = ("ipykernel_", "<ipython-input", "<exercise")
    cells = [frame for frame in frames if any(mark in frame.filename for mark in marks)]
    return cells[-1] if cells else None
