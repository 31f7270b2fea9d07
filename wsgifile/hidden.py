"""Files that something hides from us: the application has wrapped one, and it does not come out.

A response may be an iterable of a type that we do not know, around our FileWrapper. It is sent
as without us. That is safe, but it is not what the user wants, so it is logged.
"""

from __future__ import annotations

import gc
from collections import Counter
from types import GeneratorType, ModuleType
from typing import Any

from .body import CloseOnce
from .layers import name_of_type
from .log import logger, one_line
from .recognise import NOT_FILES
from .wrapper import FileWrapper

__all__ = ["describe", "hides_file", "tell_if_hidden"]

#: How far to look, in steps from one object to another, and in objects.
_STEPS = 6
_OBJECTS = 1000
#: How often to look at a type in which no file was found.
_LOOKS = 100

#: By type, or by function for generators.
_looks: Counter[object] = Counter()


def tell_if_hidden(app_iter: object) -> None:
    """Log it, once for each type, if app_iter hides a file."""
    kind = type(app_iter)
    if isinstance(app_iter, GeneratorType):
        key: object = app_iter.gi_code
    elif kind in NOT_FILES or isinstance(app_iter, CloseOnce):
        return
    else:
        key = kind
    if _looks[key] < _LOOKS:
        _looks[key] += 1
        if hides_file(app_iter):
            _looks[key] = _LOOKS
            logger.info(
                "a response of type %s hides a file, so it is sent as without wsgifile:"
                " no os.sendfile, and no ranges and ETag of ours",
                one_line(describe(app_iter)),
            )


def describe(app_iter: object) -> str:
    """Its type; for a generator, also the function."""
    if isinstance(app_iter, GeneratorType):
        module = app_iter.gi_frame and app_iter.gi_frame.f_globals.get("__name__")
        return f"generator, {app_iter.gi_code.co_name} of {module}"
    return name_of_type(type(app_iter))


def hides_file(app_iter: object) -> bool:
    """Whether a FileWrapper is among the objects that app_iter refers to, directly or not."""
    seen = {id(app_iter)}
    objects = [app_iter]
    for _ in range(_STEPS):
        near = [thing for thing in gc.get_referents(*objects) if id(thing) not in seen]
        if any(type(thing) is FileWrapper for thing in near):
            return True
        objects = [thing for thing in near if _may_lead_to_it(thing)][:_OBJECTS]
        seen.update(map(id, objects))
    return False


def _may_lead_to_it(thing: Any) -> bool:
    """Whether to look further. Not into programs, and not into a response of ours."""
    if isinstance(thing, (type, ModuleType, CloseOnce)) or not gc.is_tracked(thing):
        return False
    return not (type(thing) is dict and "__builtins__" in thing)  # A module's variables.
