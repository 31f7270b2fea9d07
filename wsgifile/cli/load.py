"""What TARGET means."""

class LoadError(Exception):
    """TARGET is nothing that can be served; the message says why."""


def load(target: str, **options: bool) -> tuple[WSGIApplication, str]:
    """The application that TARGET means, and the path of its URL to show.

    :param options: of directory_app().
    :raises LoadError: if there is none, or one for which the options are not.
    """
    if os.path.isdir(target):
        from .directory import directory_app

        return directory_app(target, **options), "/"
    if any(options.values()):
        raise LoadError(f"--hidden and --follow-symlinks are for directories, not {target}")
    if os.path.isfile(target):
        from .directory import file_app

        if not os.access(target, os.R_OK):
            raise LoadError(f"{target} may not be read")
        return file_app(target), "/" + quote(os.fsencode(os.path.basename(target)))
    if os.path.exists(target):
        raise LoadError(f"{target} is neither a file nor a directory")
    module, colon, attributes = target.partition(":")
    if not (colon and all(part.isidentifier() for part in f"{module}.{attributes}".split("."))):
        raise LoadError(f"{target} does not exist, and is not of the form package.module:callable")
    return _load_callable(module, attributes), "/"


def _load_callable(module: str, attributes: str) -> WSGIApplication:
    # The script's sys.path begins with its own directory, not with this one.
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except BaseException as error:
        # Somebody else's code: it may raise whatever it likes. Or it is Ctrl-C.
        reason = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        raise LoadError(f"cannot import {module}: {reason}") from error
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise LoadError(f"{module} has no {attributes}") from None
    if not callable(found):
        raise LoadError(f"{module}:{attributes} is not callable, so it is no WSGI application")
    app: WSGIApplication = found
    return app
