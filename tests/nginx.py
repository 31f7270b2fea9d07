"""For tests with nginx."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

__all__ = ["PARAMS", "command"]

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")

CONF = """
daemon off;
{user}
pid {root}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    default_type application/octet-stream;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    scgi_temp_path {root}/scgi;
    uwsgi_temp_path {root}/uwsgi;
    {http}
}}
"""

#: Debian's /etc/nginx/uwsgi_params, as far as the application looks at it.
PARAMS = """
uwsgi_param REQUEST_METHOD $request_method;
uwsgi_param REQUEST_URI $request_uri;
uwsgi_param PATH_INFO $document_uri;
uwsgi_param QUERY_STRING $query_string;
uwsgi_param SERVER_PROTOCOL $server_protocol;
uwsgi_param SERVER_PORT $server_port;
uwsgi_param SERVER_NAME $server_name;
uwsgi_param REMOTE_ADDR $remote_addr;
uwsgi_param REMOTE_PORT $remote_port;
"""


def command(root: Path, http: str) -> list[str]:
    """What starts nginx with this in its http block, and with its files below root."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    user = "user root;" if os.getuid() == 0 else ""
    conf = root / "nginx.conf"
    conf.write_text(CONF.format(root=root, http=http, user=user))
    return [NGINX, "-c", str(conf)]
