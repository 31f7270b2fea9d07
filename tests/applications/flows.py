"""What the applications of run.py serve, and what their users do with them."""

from __future__ import annotations

import argparse
import hashlib
import http.cookiejar
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

#: Seconds that a command may take.
TIMEOUT = 300


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description as they are."""


def call(*command: str | Path, cwd: Path | None = None, **environ: str) -> str:
    """The output of a command, which must succeed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def sha256(path: Path, start: int = 0, stop: int | None = None) -> str:
    return hashlib.sha256(path.read_bytes()[start:stop]).hexdigest()


@dataclass
class Downloaded:
    status: int
    seconds: float
    size: int
    sha256: str
    header: str


def download(url: str, *options: str) -> Downloaded:
    """Download by curl. It must get a response."""
    with tempfile.TemporaryDirectory() as directory:
        body, header = Path(directory) / "body", Path(directory) / "header"
        body.touch()
        told = call("curl", "--silent", "--show-error", "--output", body, "--dump-header", header,
                    "--write-out", "%{http_code} %{time_total}", *options, url)  # fmt: skip
        status, seconds = told.split()
        size = body.stat().st_size
        return Downloaded(int(status), float(seconds), size, sha256(body), header.read_text())


def seen(url: str, *options: str) -> object:
    """What the client of a download gets."""
    got = download(url, *options)
    return got.status, got.size, got.sha256


def is_304(url: str) -> bool:
    """Whether a client that has the file gets a 304 in its place."""
    header = download(url, "--range", "0-1").header  # Not one: WhiteNoise refuses.
    etag = re.search(r"(?im)^etag: (.*?)$", header)
    date = re.search(r"(?im)^last-modified: (.*?)$", header)
    if etag is not None:
        return download(url, "--header", f"If-None-Match: {etag[1]}").status == 304
    if date is not None:
        return download(url, "--header", f"If-Modified-Since: {date[1]}").status == 304
    return False


# pypiserver: pip installs a package from it.


def prepare_pypiserver(python: Path, directory: Path, large: Path) -> None:
    packages = directory / "packages"
    packages.mkdir()
    shutil.copy(large, packages / "large-1.0.tar.gz")
    info = "small-1.0.dist-info"
    wheel = {
        "small.py": "SIZE = 1\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(packages / "small-1.0-py3-none-any.whl", "w") as archive:
        for name, text in wheel.items():
            archive.writestr(zipfile.ZipInfo(name), text)


def use_pypiserver(url: str, python: Path, directory: Path) -> object:
    listed = urllib.request.urlopen(f"{url}/simple/small/", timeout=20).read()
    call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--no-cache-dir", "--index-url", f"{url}/simple/", "--target", directory / "installed",
         "small", cwd=directory)  # fmt: skip
    return b"small" in listed, (directory / "installed/small.py").read_text()


# Mercurial's hgweb: a clone, and a file of the repository.


def prepare_hgweb(python: Path, directory: Path, large: Path) -> None:
    repository = directory / "repository"
    repository.mkdir()
    shutil.copy(large, repository / "large")
    (repository / "small").write_bytes(b"small\n")
    hg = python.parent / "hg"
    call(hg, "init", cwd=repository, HGRCPATH="")
    call(hg, "commit", "--addremove", "--message", "a", "--user", "a", "--date", "0 0",
         cwd=repository, HGRCPATH="")  # fmt: skip


def use_hgweb(url: str, python: Path, directory: Path) -> object:
    hg, clone = python.parent / "hg", directory / "clone"
    call(hg, "clone", "--quiet", url, clone, HGRCPATH="")
    whole = sha256(clone / "large") == sha256(directory / "repository/large")
    small = download(f"{url}/raw-file/tip/small")
    return call(hg, "identify", "--id", clone, HGRCPATH=""), whole, small.status, small.sha256


# WsgiDAV: litmus, which tests servers of WebDAV.


def prepare_wsgidav(python: Path, directory: Path, large: Path) -> None:
    (directory / "share").mkdir()
    shutil.copy(large, directory / "share/large")


def use_wsgidav(url: str, python: Path, directory: Path) -> object:
    if shutil.which("litmus") is None:
        raise SystemExit("litmus is not installed")
    (directory / "litmus").mkdir()
    done = subprocess.run(
        ["litmus", "--keep-going", f"{url}/"],
        cwd=directory / "litmus",
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,  # It fails if one of its tests does, as some do.
    )
    # "\b" is among what shows progress.
    lines = [line.rpartition("\b")[2] for line in done.stdout.splitlines()]
    results = re.findall(r"^.*\.\. (?:pass|FAIL|SKIPPED|WARNING)", "\n".join(lines), re.MULTILINE)
    assert len(results) > 30, done.stdout
    return results


# Trac: a page of the wiki, and an attachment.


def prepare_trac(python: Path, directory: Path, large: Path) -> None:
    admin, trac = python.parent / "trac-admin", directory / "trac"
    call(admin, trac, "initenv", "Project", "sqlite:db/trac.db")
    call(admin, trac, "config", "set", "attachment", "max_size", "-1")
    call(admin, trac, "attachment", "add", "wiki:WikiStart", large)


def use_trac(url: str, python: Path, directory: Path) -> object:
    page, style = download(f"{url}/wiki"), download(f"{url}/chrome/common/css/trac.css")
    return page.status, style.status, style.size, style.sha256


# Django: the admin, an upload and its download, static files by WhiteNoise.

DJANGO = {
    "project/settings.py": """
from pathlib import Path
BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY, DEBUG, ALLOWED_HOSTS = "secret", False, ["127.0.0.1"]
INSTALLED_APPS = ["django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
    "django.contrib.sessions", "django.contrib.messages", "django.contrib.staticfiles", "files"]
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware"]
ROOT_URLCONF = "project.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True,
    "OPTIONS": {"context_processors": ["django.template.context_processors.request",
        "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages"]}}]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db"}}
STATIC_URL, STATIC_ROOT = "static/", BASE_DIR / "static"
MEDIA_ROOT = BASE_DIR / "media"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
""",
    "project/urls.py": """
from django.conf import settings
from django.contrib import admin
from django.http import FileResponse
from django.urls import path
from django_downloadview import PathDownloadView

def sent(request, name):
    return FileResponse(open(settings.MEDIA_ROOT / name, "rb"))

class Download(PathDownloadView):
    def get_path(self):
        return str(settings.MEDIA_ROOT / self.kwargs["path"])

urlpatterns = [path("admin/", admin.site.urls), path("sent/<name>", sent),
    path("view/<path:path>", Download.as_view())]
""",
    "files/models.py": """
from django.db import models

class Document(models.Model):
    file = models.FileField(upload_to="")
""",
    "files/admin.py": """
from django.contrib import admin
from .models import Document
admin.site.register(Document)
""",
}


def prepare_django(python: Path, directory: Path, large: Path) -> None:
    for name, text in DJANGO.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    (directory / "media").mkdir()
    shutil.copy(large, directory / "media/large")
    for command in (
        ["makemigrations", "files"],
        ["migrate"],
        ["collectstatic", "--noinput"],
        ["createsuperuser", "--noinput", "--username", "admin", "--email", "a@example.org"],
    ):
        call(python, "-m", "django", *command, "--verbosity", "0", cwd=directory,
             PYTHONPATH=str(directory), DJANGO_SETTINGS_MODULE="project.settings",
             DJANGO_SUPERUSER_PASSWORD="password")  # fmt: skip


def use_django(url: str, python: Path, directory: Path) -> object:
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))

    def post(path: str, kind: str, body: str) -> str:
        """The page after a form of this page has been sent."""
        form: str = opener.open(f"{url}{path}", timeout=20).read().decode()
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
        assert token is not None
        data = body.replace("TOKEN", token[1]).replace("\n", "\r\n").encode()
        request = urllib.request.Request(
            f"{url}{path}", data, {"Content-Type": kind, "Referer": f"{url}{path}"}
        )
        page: str = opener.open(request, timeout=20).read().decode()
        return page

    form = "csrfmiddlewaretoken=TOKEN&username=admin&password=password&next=/admin/"
    inside = post("/admin/login/", "application/x-www-form-urlencoded", form)
    part = '--part\nContent-Disposition: form-data; name="'
    upload = f'{part}csrfmiddlewaretoken"\n\nTOKEN\n{part}file"; filename="a.txt"\n\nuploaded\n'
    added = post(
        "/admin/files/document/add/", "multipart/form-data; boundary=part", f"{upload}--part--\n"
    )
    got = [download(url + path) for path in ("/sent/a.txt", "/view/a.txt", "/view/large")]
    style = download(f"{url}/static/admin/css/base.css")
    return (
        "Site administration" in inside,
        "was added successfully" in added,
        [(one.status, one.sha256) for one in got],
        (style.status, style.size, style.sha256),
    )


# TurboGears: a page, and a static file.

TURBOGEARS = """
from tg import MinimalApplicationConfigurator, TGController, expose
from tg.configurator.components.statics import StaticsConfigurationComponent

class Root(TGController):
    @expose(content_type="text/plain")
    def index(self):
        return "Hello"

configurator = MinimalApplicationConfigurator()
configurator.register(StaticsConfigurationComponent)
configurator.update_blueprint({"root_controller": Root(), "serve_static": True,
    "paths": {"static_files": "public"}})
bare = configurator.make_wsgi_app()
"""


def prepare_turbogears(python: Path, directory: Path, large: Path) -> None:
    (directory / "public").mkdir()
    shutil.copy(large, directory / "public/large")
    (directory / "public/style.css").write_bytes(b"p { margin: 0 }\n")


def use_turbogears(url: str, python: Path, directory: Path) -> object:
    got = [download(url + path) for path in ("/", "/style.css", "/missing")]
    return [(one.status, one.size, one.sha256) for one in got[:2]], got[2].status


# Kolibri: the start page's scripts, the film and the zip archive of a lesson, a login and the
# list of users as CSV. The archive's files are what Kolibri hands to wsgi.file_wrapper itself.

KOLIBRI = """
from kolibri.deployment.default.alt_wsgi import alt_application
from kolibri.deployment.default.wsgi import application

def bare(environ, start_response):
    # Kolibri itself gives each a port.
    archive = environ["PATH_INFO"].startswith("/content/zipcontent/")
    return (alt_application if archive else application)(environ, start_response)
"""
#: Its own server, which is made of cheroot's.
KOLIBRI_SERVER = """
import served
from kolibri.utils.server import Server
Server(("127.0.0.1", {port}), served.{name}).start()
"""
KOLIBRI_NAME = "0" * 32
KOLIBRI_FILE = f"/content/storage/0/0/{KOLIBRI_NAME}"


def prepare_kolibri(python: Path, directory: Path, large: Path) -> None:
    for command in (
        ["provisiondevice", "--facility", "School", "--preset", "nonformal", "--language_id", "en",
         "--superusername", "admin", "--superuserpassword", "password", "--noinput"],
        ["bulkexportusers", "--use-django-storage"],
    ):  # fmt: skip
        call(python.parent / "kolibri", "manage", *command, cwd=directory, KOLIBRI_HOME="home")
    lesson = directory / f"home{KOLIBRI_FILE}"
    lesson.parent.mkdir(parents=True)
    shutil.copy(large, lesson.with_suffix(".mp4"))
    with zipfile.ZipFile(lesson.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("index.html", "<p>Hello</p>")
        archive.writestr("text.txt", "text" * 250_000)


def use_kolibri(url: str, python: Path, directory: Path) -> object:
    page = urllib.request.urlopen(f"{url}/", timeout=60).read().decode()
    scripts = sorted(set(re.findall(r'"(/static/[^"]+\.js)"', page)))  # In no certain order.
    assert len(scripts) > 10, page
    archive = f"{url}/content/zipcontent/{KOLIBRI_NAME}.zip"
    gets = [
        *(seen(url + script) for script in scripts),
        seen(f"{url}{KOLIBRI_FILE}.mp4"),
        seen(f"{url}{KOLIBRI_FILE}.mp4", "--range", "1000-1999"),
        seen(f"{archive}/index.html"),
        seen(f"{archive}/text.txt"),
        seen(f"{archive}/text.txt", "--range", "1001-1999"),
        download(f"{archive}/missing").status,
    ]
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    facility = json.load(opener.open(f"{url}/api/public/v1/facility/", timeout=20))[0]["id"]
    login = {"username": "admin", "password": "password", "facility": facility}
    opener.open(
        urllib.request.Request(
            f"{url}/api/auth/session/",
            json.dumps(login).encode(),
            {"Content-Type": "application/json"},
        ),
        timeout=20,
    )
    users = f"{url}/facility/api/downloadcsvfile/user/{facility}/"
    return gets, download(users).status, opener.open(users, timeout=20).read()


# Pyramid: the project that pcreate makes, with a view that returns a large file.

PIPELINE = """
[pipeline:main]
pipeline = wsgifile project

[filter:wsgifile]
use = egg:wsgifile

[app:project]
"""

#: Where run.py learns by which sender the files went: the ini cannot set on_sent.
PYRAMID_LOG = """
[logger_wsgifile]
level = DEBUG
handlers = transfers
qualname = wsgifile
propagate = 0

[handler_transfers]
class = FileHandler
args = ("transfers",)
level = NOTSET
formatter =
"""


def prepare_pyramid(python: Path, directory: Path, large: Path) -> None:
    project = directory / "project"
    call(python.parent / "pcreate", "--scaffold", "starter", "project", cwd=directory)
    call(python, "setup.py", "--quiet", "egg_info", cwd=project)
    shutil.copy(large, directory)
    route = "config.add_route('home', '/')"
    main = project / "project/__init__.py"
    more = f"{route}\n    config.add_route('large', '/large')"
    main.write_text(main.read_text().replace(route, more))
    with (project / "project/views.py").open("a") as views:
        views.write(
            "\n\nfrom pyramid.response import FileResponse\n\n\n"
            "@view_config(route_name='large')\n"
            "def large(request):\n"
            f"    return FileResponse({str(directory / 'large')!r}, request=request)\n"
        )
    ini = (project / "production.ini").read_text().replace("*:6543", "127.0.0.1:%(port)s")
    (project / "bare.ini").write_text(ini)
    for old, new in (
        ("[app:main]\n", PIPELINE),
        ("keys = root, project", "keys = root, project, wsgifile"),
        ("keys = console", "keys = console, transfers"),
    ):
        ini = ini.replace(old, new)
    (project / "wrapped.ini").write_text(ini + PYRAMID_LOG)


def use_pyramid(url: str, python: Path, directory: Path) -> object:
    host = ("--header", "Host: example.org")  # The page has it in its links.
    paths = ("/", "/missing", "/static/theme.css", "/static/pyramid.png", "/large")
    parts = [seen(f"{url}/large", "--range", part) for part in ("1000-1999", "-1000")]
    return [seen(url + path, *host) for path in paths], parts
