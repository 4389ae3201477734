"""A measure of work that does not depend on the machine or on what else it does."""

import sys
from collections.abc import Callable


def steps(function: Callable, *arguments) -> int:
    """How many bytecode instructions a call takes, those of all functions that it calls included."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*arguments)
    finally:
        sys.settrace(before)
    return count
