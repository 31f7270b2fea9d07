"""Files that a middleware or an agent hides inside an iterable of a type that we do not know.

Such a response is passed on as it is. That is safe, but it is not what the user wants, so it is
logged.
"""

from __future__ import annotations

import gc
from collections import Counter, deque
from types import GeneratorType, ModuleType
from typing import Any

from .body import CloseOnce
from .layers import name_of_type
from .log import logger, one_line
from .recognise import NOT_FILES
from .wrapper import FileWrapper

__all__ = ["hides_file", "tell_if_hidden", "type_of"]

#: How far to look, in steps from one object to another, and in objects.
_STEPS = 6
_OBJECTS = 1000
#: A container with more items than this is an application's data. Looking at a million of them
#: takes a second.
_ITEMS = 100
#: How often to look at a type in which no file was found.
_LOOKS = 10

_looks: Counter[str] = Counter()


def tell_if_hidden(app_iter: object) -> None:
    """Log it, once for each type, if app_iter hides a file."""
    kind = type(app_iter)
    if (kind in NOT_FILES and kind is not GeneratorType) or isinstance(app_iter, CloseOnce):
        return
    name = type_of(app_iter)
    if _looks[name] < _LOOKS:
        _looks[name] += 1
        if hides_file(app_iter):
            _looks[name] = _LOOKS
            logger.info(
                "a response of type %s hides a file, so wsgifile passes it on as it is:"
                " no os.sendfile, and no byte ranges or ETag by wsgifile",
                one_line(name),
            )


def type_of(app_iter: object) -> str:
    """The name of its type; for a generator, also of the function."""
    if isinstance(app_iter, GeneratorType):
        return f"generator ({app_iter.gi_code.co_name} of {app_iter.gi_code.co_filename})"
    return name_of_type(type(app_iter))


def hides_file(app_iter: object) -> bool:
    """Whether a FileWrapper is among the objects that app_iter refers to, directly or not."""
    seen = {id(app_iter)}
    objects = [app_iter]
    for _ in range(_STEPS):
        near = [thing for thing in gc.get_referents(*objects) if id(thing) not in seen]
        # By type(): isinstance() evaluates lazy objects, such as Django's request.user.
        if any(issubclass(type(thing), FileWrapper) for thing in near):
            return True
        objects = [thing for thing in near if _may_lead_to_it(thing)][:_OBJECTS]
        seen.update(map(id, objects))
    return False


def _may_lead_to_it(thing: Any) -> bool:
    """Whether to look further. Not into programs, and not into a response of ours."""
    if issubclass(type(thing), (type, ModuleType, CloseOnce)) or not gc.is_tracked(thing):
        return False
    if type(thing) is dict and "__builtins__" in thing:
        return False  # A module's variables.
    # Not by len(), which may be somebody's code.
    kinds = [kind for kind in _CONTAINERS if issubclass(type(thing), kind)]
    return all(kind.__len__(thing) <= _ITEMS for kind in kinds)


_CONTAINERS: tuple[Any, ...] = (dict, list, tuple, set, frozenset, deque)
