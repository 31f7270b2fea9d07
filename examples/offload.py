"""nginx or Apache in front sends the files that the application chooses.

In this directory, for the files in ``files``:

    python offload.py nginx files
    python offload.py apache files

then open http://127.0.0.1:8080/. Needs ``wsgifile[serve]``, and Debian's nginx-light, or
apache2 with libapache2-mod-xsendfile. ``offload-nginx.conf`` and ``offload-apache.conf`` are their
configurations. This program fills in names like @DIRECTORY@. The server in front must be
allowed to read the directory.
"""

from __future__ import annotations

import argparse
import grp
import logging
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading

import waitress

from wsgifile import FileWrapperMiddleware, XAccelRedirect, XSendfile
from wsgifile.cli.directory import directory_app

HERE = os.path.dirname(os.path.abspath(__file__))
#: Debian installs them in sbin, which is not in every user's PATH.
PATH = os.environ.get("PATH", "") + ":/usr/sbin"


def application(server, directory):
    """The application. It leaves its files to the server in front."""
    if server == "nginx":
        offload = XAccelRedirect({directory: "/_files"})
    else:
        # Not quoted, because Debian has mod_xsendfile 0.12.
        offload = XSendfile([directory], quoted=False)
    return FileWrapperMiddleware(
        directory_app(directory),
        offload=offload,
        # Requests from elsewhere, such as a health check, get the files from here.
        trusted_proxies=["127.0.0.1"],
    )


def command(server, directory, port, ports, scratch):
    """The command that starts the server in front of the applications on these ports."""
    each = "server 127.0.0.1:{};" if server == "nginx" else "BalancerMember http://127.0.0.1:{}"
    values = {
        "APPLICATIONS": "\n".join(each.format(number) for number in ports),
        "DIRECTORY": directory,
        "PORT": str(port),
        "SCRATCH": scratch,
        "USER": pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() else "www-data",
        "GROUP": grp.getgrgid(os.getegid()).gr_name if os.geteuid() else "www-data",
    }
    with open(os.path.join(HERE, f"offload-{server}.conf")) as template:
        text = template.read()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    os.chmod(scratch, 0o755)  # The workers of nginx and Apache are not root.
    conf = os.path.join(scratch, "conf")
    with open(conf, "w") as file:
        file.write(text)
    if server == "nginx":
        return [shutil.which("nginx", path=PATH) or "nginx", "-e", "stderr", "-c", conf]
    return [shutil.which("apache2", path=PATH) or "apache2", "-DFOREGROUND", "-f", conf]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("server", choices=("nginx", "apache"))
    parser.add_argument("directory")
    parser.add_argument("--port", type=int, default=8080)
    args = parser.parse_args()
    directory = os.path.abspath(args.directory)
    if not os.path.isdir(directory):
        parser.error(f"{args.directory} is not a directory")
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("wsgifile").setLevel(logging.DEBUG)  # One line per file.
    # Treat it like Ctrl-C. Otherwise the server in front would keep running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app = waitress.create_server(application(args.server, directory), host="127.0.0.1", port=0)
    threading.Thread(target=app.run, daemon=True).start()
    with tempfile.TemporaryDirectory() as scratch:
        front = command(args.server, directory, args.port, [app.effective_port], scratch)
        print(f"{args.server} serves {directory} on http://127.0.0.1:{args.port}/", flush=True)
        process = subprocess.Popen(front)
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            # The server passes this signal on to its workers.
            process.terminate()
            process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
