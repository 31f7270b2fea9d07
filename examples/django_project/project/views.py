"""Downloads: a file from the storage, bytes in memory, and a temporary file."""

import csv
import io
import tempfile
import zipfile

from django.core.exceptions import SuspiciousFileOperation
from django.core.files.storage import default_storage
from django.http import FileResponse, Http404, HttpResponse
from django.urls import reverse
from django.utils.html import format_html_join
from django.views.decorators.http import require_safe


def names():
    """The files of the media directory."""
    return sorted(default_storage.listdir("")[1])


@require_safe
def index(request):
    links = [(reverse("download", args=[name]), name) for name in names()]
    links += [(reverse(view), view) for view in ("report", "archive")]
    return HttpResponse(format_html_join("\n", '<p><a href="{}">{}</a>', links))


@require_safe
def download(request, name):
    try:
        file = default_storage.open(name)
    except (OSError, ValueError, SuspiciousFileOperation) as error:
        # There is no such file, or the name is invalid or leads out of the media directory.
        raise Http404 from error
    return FileResponse(file, as_attachment=True)


@require_safe
def report(request):
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["file", "bytes"])
    rows.writerows((name, default_storage.size(name)) for name in names())
    data = io.BytesIO(text.getvalue().encode())
    return FileResponse(data, as_attachment=True, filename="report.csv")


@require_safe
def archive(request):
    file = tempfile.TemporaryFile()
    with zipfile.ZipFile(file, "w") as made:
        for name in names():
            made.write(default_storage.path(name), name)
    file.seek(0)
    return FileResponse(file, as_attachment=True, filename="all.zip")
