"""A plain WSGI application that returns an open file, and nothing else to it.

    wsgifile plain:app

serves it through the middleware, or with any other server, gunicorn for one:

    gunicorn plain:application
"""

from wsgifile import FileWrapperMiddleware


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/x-python")])
    return open(__file__, "rb")


application = FileWrapperMiddleware(app)
