"""A plain WSGI application that returns an open file, and nothing else to it.

In this directory:

    wsgifile plain:app --port 8080

serves it through the middleware, on http://127.0.0.1:8080/. So does any other server,
as it is wrapped below:

    gunicorn --bind 127.0.0.1:8080 plain:application
"""

from wsgifile import FileWrapperMiddleware


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/x-python")])
    return open(__file__, "rb")


application = FileWrapperMiddleware(app)
