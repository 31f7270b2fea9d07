"""Serve a PasteDeploy ini with its [server:main]: python serve_ini.py FILE.ini"""

import os
import sys

from paste.deploy import loadapp, loadserver

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python serve_ini.py FILE.ini")
    ini = os.path.abspath(sys.argv[1])
    # The modules that the ini names are in the same directory.
    sys.path.insert(0, os.path.dirname(ini))
    loadserver(f"config:{ini}")(loadapp(f"config:{ini}"))
