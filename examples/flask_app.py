"""Flask: the files of a directory, a report made in memory, and an open file.

In this directory:

    flask --app flask_app run --port 8080

then open http://127.0.0.1:8080/. Needs Flask.
"""

import csv
import io
import logging
import os

from flask import Flask, render_template_string, send_file, send_from_directory

from wsgifile import FileWrapperMiddleware

logging.basicConfig(level=logging.INFO)
logging.getLogger("wsgifile").setLevel(logging.DEBUG)  # One line per file.

app = Flask(__name__)
app.wsgi_app = FileWrapperMiddleware(app.wsgi_app)

FILES = os.path.join(app.root_path, "files")
PAGE = """<!doctype html>
<title>Files</title>
{% for name in names %}<p><a href="{{ url_for('download', name=name) }}">{{ name }}</a>
{% endfor %}<p><a href="{{ url_for('report') }}">report.csv</a>
<p><a href="{{ url_for('source') }}">source</a>
"""


@app.get("/")
def index():
    return render_template_string(PAGE, names=sorted(os.listdir(FILES)))


@app.get("/files/<path:name>")
def download(name):
    # Anything that is not below FILES gets 404.
    return send_from_directory(FILES, name, as_attachment=True)


@app.get("/report.csv")
def report():
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["file", "bytes"])
    for name in sorted(os.listdir(FILES)):
        rows.writerow([name, os.path.getsize(os.path.join(FILES, name))])
    data = io.BytesIO(text.getvalue().encode())
    return send_file(data, as_attachment=True, download_name="report.csv")


@app.get("/source")
def source():
    return open(__file__, "rb"), {"Content-Type": "text/plain; charset=utf-8"}
