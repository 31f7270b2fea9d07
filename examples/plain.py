"""A plain WSGI application that only returns an open file.

In this directory:

    wsgifile plain:app --port 8080

serves it through the middleware, on http://127.0.0.1:8080/. Any other server does too,
because the application is wrapped below:

    gunicorn --bind 127.0.0.1:8080 plain:application
"""

from wsgifile import FileWrapperMiddleware


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/x-python")])
    return open(__file__, "rb")


application = FileWrapperMiddleware(app)
