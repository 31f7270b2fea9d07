"""The second filter and the application of pipeline.ini."""

from webob.dec import wsgify

from wsgifile.cli import directory


def hello_filter(global_conf, greeting):
    """A filter that answers /hello itself and passes everything else on."""

    @wsgify.middleware
    def hello(request, app):
        return greeting + "\n" if request.path_info == "/hello" else app

    return hello


def directory_app(global_conf, path):
    """An application that serves the files of a directory."""
    return directory.directory_app(path)
