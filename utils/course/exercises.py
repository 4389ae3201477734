"""Exercises: `check` an answer, ask for a `hint`, see a `solution`; `choose` goes on with the learner's own piece.

Those of notebook NN are in notebooks/exercises/nbNN.py: each is a right answer under the decorator `exercise`.
"""

import functools
import importlib
import inspect
import pkgutil
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FOLDER = "notebooks.exercises"


class Wrong(Exception):
    """Raised by a check; its message says which property is broken and what was seen."""


@dataclass(frozen=True)
class Exercise:
    """What the decorator `exercise` keeps."""

    id: str  # "NN.k", notebook and number
    title: str  # a few words
    hints: list[str]  # from the first nudge to nearly the answer
    check: Callable[[Any], None]  # takes the learner's function; raises `Wrong` unless it is right, in whatever way
    solution: Callable  # one right answer


EXERCISES: dict[str, Exercise] = {}
_hints_given: dict[str, int] = {}


def exercise(exercise_id: str, title: str, check: Callable[[Any], None], hints: list[str]) -> Callable:
    """Decorator: the function under it is one right answer to that exercise. It stays the function it is."""

    def register(solution: Callable) -> Callable:
        EXERCISES[exercise_id] = Exercise(exercise_id, title, hints, check, solution)
        return solution

    return register


def check(exercise_id: str, answer: Any) -> None:
    """Print whether `answer` is right and, if not, which property is broken. A wrong one raises nothing."""
    print(grade(exercise_id, answer)[1])


def hint(exercise_id: str) -> None:
    """Print a hint; each call gives the next one."""
    hints = find(exercise_id).hints
    given = _hints_given.get(exercise_id, 0)
    _hints_given[exercise_id] = given + 1
    k = min(given, len(hints) - 1)
    print(f"Hint {k + 1} of {len(hints)}: {hints[k]}")
    if given >= len(hints):
        print(f'That was the last hint; solution("{exercise_id}") shows one way.')


def solution(exercise_id: str) -> None:
    """Print the source of one right answer."""
    found = find(exercise_id)
    text = inspect.getsource(found.solution)
    text = text[text.index(f"def {found.solution.__name__}(") :].strip()  # without the decorator
    print(f"# One answer to exercise {found.id}, {found.title}\n{text}")


def choose(exercise_id: str, yours: Callable, ours: Callable) -> Callable:
    """The learner's function if its check passes, else the course's; a printed line says which."""
    # A cell that runs twice hands the course's version of the first time back: that is not yours.
    right = getattr(yours, "__name__", "") != ours.__name__ and grade(exercise_id, yours)[0]
    print(f"{exercise_id}: going on with {'yours' if right else 'the version of the course'}")
    return yours if right else ours


def grade(exercise_id: str, answer: Any) -> tuple[bool | None, str]:
    """What `check` prints, and whether the answer is right (True), wrong (False) or not there yet (None)."""
    found = find(exercise_id)
    name = f"Exercise {found.id} ({found.title})"
    not_tried = f"… Not tried yet: {name}. Write your answer in place of the stub and run the cell again."
    if answer is None or answer is ...:
        return None, not_tried
    returned: list[Any] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        returned.append(answer(*args, **kwargs))
        return returned[-1]

    passed, message = True, f"✓ {name}: right."
    try:
        found.check(functools.wraps(answer)(watched) if isinstance(answer, types.FunctionType) else answer)
    except Exception as error:
        if isinstance(error, NotImplementedError) and not error.args:  # a stub's has no text, PyTorch's own has
            return None, not_tried
        passed, message = False, f"✗ {name}: {_explain(error)}"
    # A function that has returned nothing at all is a stub, whatever the check made of it.
    if returned and all(value is None or value is ... for value in returned):
        return None, f"{not_tried} (If you did: it returned None; is a return missing?)"
    return passed, message


def find(exercise_id: str) -> Exercise:
    """The exercise of that id. Raises ValueError: there is none; these are the ids of that notebook, or of all."""
    folder = importlib.import_module(FOLDER)
    notebooks = [module.name for module in pkgutil.iter_modules(folder.__path__)]
    number = str(exercise_id)[:2]
    # Only this notebook's file is loaded, unless the message needs them all.
    for notebook in [f"nb{number}"] if f"nb{number}" in notebooks else notebooks:
        importlib.import_module(f"{FOLDER}.{notebook}")
    if exercise_id not in EXERCISES:
        known = [known for known in EXERCISES if known.startswith(f"{number}.")] or EXERCISES
        raise ValueError(f"no exercise {exercise_id!r}; there are: {', '.join(known) or 'none yet'}")
    return EXERCISES[exercise_id]


def _explain(error: Exception) -> str:
    if isinstance(error, (Wrong, AssertionError)):
        return str(error) or "a property that the check asserts does not hold"
    kind = f"{type(error).__name__}: {error}"
    # The innermost line of a notebook cell on the way to the error; older IPython (Colab's) names cells otherwise.
    frames = traceback.extract_tb(error.__traceback__)
    cells = [frame for frame in frames if "ipykernel_" in frame.filename or "<ipython-input" in frame.filename]
    if not cells:
        return f"the check could not use your answer. {kind}"
    return f"your code raised {kind}\n    at line {cells[-1].lineno}: {cells[-1].line}"
