"""PasteDeploy loads egg:wsgifile."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paste.deploy")
pytest.importorskip("webtest")

import webtest
from paste.deploy import loadapp

from wsgifile import FileWrapperMiddleware

pytestmark = pytest.mark.quick

INI = """
[app:main]
paste.app_factory = wsgifile_paste_app:factory
filter-with = wsgifile

[filter:wsgifile]
use = egg:wsgifile
{option}
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    (tmp_path / "wsgifile_paste_app.py").write_text(
        "def factory(global_conf):\n"
        "    def app(environ, start_response):\n"
        "        start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "        return open(__file__, 'rb')\n"
        "    return app\n"
        "def url_for(file):\n"
        "    return 'https://store.example/' + file.name.rpartition('/')[2]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wsgifile_paste_app", raising=False)

    def load(option: str = "", ini: str = INI) -> Any:
        (tmp_path / "test.ini").write_text(ini.format(option=option))
        return loadapp(f"config:{tmp_path}/test.ini")

    return load


def test_filter(load: Callable[..., Any]) -> None:
    app = load("block_size = 1000")
    assert isinstance(app, FileWrapperMiddleware)
    assert app.options.block_size == 1000
    assert b"def factory" in webtest.TestApp(app).get("/").body


@pytest.mark.parametrize(("text", "value"), [("true", True), ("no", False), ("OFF", False)])
def test_filter_switches(load: Callable[..., Any], text: str, value: bool) -> None:
    app = load(f"ranges = {text}\nvalidators = {text}\nsendfile = {text}")
    options = app.options
    assert (options.ranges, options.validators, options.sendfile) == (value, value, value)
    answer = webtest.TestApp(app).get("/")
    assert ("Accept-Ranges" in answer.headers, "ETag" in answer.headers) == (value, value)


def test_filter_app(load: Callable[..., Any]) -> None:
    """With [filter-app:x], PasteDeploy passes the application along with the options."""
    ini = "[filter-app:main]\nuse = egg:wsgifile\nnext = inner\n" + INI.replace(
        "app:main", "app:inner"
    ).replace("filter-with = wsgifile", "")
    assert isinstance(load(ini=ini), FileWrapperMiddleware)


def test_offload(load: Callable[..., Any], tmp_path: Path) -> None:
    """A file below the directory is left to the proxy if the request comes from the proxy."""
    for option, header, value in [
        (
            f"x_accel_redirect =\n    / = /_root\n    {tmp_path} = /_files",
            "X-Accel-Redirect",
            "/_files/",
        ),
        (f"x_sendfile =\n    /\n    {tmp_path}", "X-Sendfile", f"{tmp_path}/"),
        (f"x_sendfile_quoted = {tmp_path}", "X-Sendfile", f"{tmp_path}/"),
        (f"x_sendfile_unquoted = {tmp_path}", "X-Sendfile", f"{tmp_path}/"),
    ]:
        app = load(f"{option}\ntrusted_proxies = 10.0.0.0/8, 127.0.0.1 unix")
        for address, left in (("127.0.0.1", True), ("10.1.2.3", True), ("", True), ("::1", False)):
            environ = {"REMOTE_ADDR": address}
            answer = webtest.TestApp(app).get("/", extra_environ=environ)
            assert answer.headers.get(header) == (
                value + "wsgifile_paste_app.py" if left else None
            )
            assert (answer.body == b"") == left


def test_offload_to_a_store(load: Callable[..., Any]) -> None:
    """A function is given by its name."""
    name = "wsgifile_paste_app:url_for"
    answer = webtest.TestApp(load(f"redirect = {name}")).get("/")
    url = "https://store.example/wsgifile_paste_app.py"
    assert (answer.status_int, answer.headers["Location"]) == (302, url)
    for option in (f"{name} = /_store", f"\n    /proc = /_files\n    {name} = /_store"):
        answer = webtest.TestApp(load(f"x_accel_redirect = {option}")).get("/")
        assert answer.headers["X-Accel-Redirect"] == f"/_store?{url}"


def test_defaults(load: Callable[..., Any]) -> None:
    assert load().options == FileWrapperMiddleware(lambda *args: []).options


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("blok_size = 1", "no option 'blok_size', only: block_size, ranges, validators"),
        ("block_size = big", "egg:wsgifile: block_size = 'big': invalid literal"),
        ("block_size =", "egg:wsgifile: block_size = '': invalid literal"),
        ("ranges = maybe", "egg:wsgifile: ranges = 'maybe': String is not true/false"),
        ("x_accel_redirect = /srv", "x_accel_redirect = '/srv': '/srv' is not of the form"),
        ("x_sendfile = srv", "x_sendfile = 'srv': offload: 'srv' is not the absolute path"),
        (
            "x_sendfile = /\nx_accel_redirect = / = /b",
            "takes one option for a proxy, and x_accel_redirect is a second",
        ),
        ("x_accel_redirect =\n    /a = /b\n    /a = /c", "'/a' is given twice"),
        ("x_accel_redirect = os:none = /b", "'os:none' cannot be found: module 'os' has no"),
        ("redirect = not_there:x", "'not_there:x' cannot be found: No module named"),
        ("redirect = not a name", "redirect = 'not a name': invalid format"),
        ("trusted_proxies = here", "'here' does not appear to be an IPv4 or IPv6 network"),
        ("block_size = 0", "block_size must be at least 1, not 0"),
    ],
)
def test_wrong_options(load: Callable[..., Any], option: str, message: str) -> None:
    """The error is raised when the ini is loaded, not at the first request."""
    with pytest.raises(ValueError, match=message):
        load(option)
