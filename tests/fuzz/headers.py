"""Thousands of requests and headers, compared with the model of header_cases.py.

With atheris (``pip install atheris``), the code that a case reaches leads to the next case.
Without it, the cases are random. pytest does not run this. It ends at the first case whose answer
is not that of the model, and prints it. Keep that case as an example in test_any_header.py.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--minutes", type=float, default=10, metavar="N", help="default: %(default)s")
    add("--seed", type=int, default=0, metavar="N", help="0: another one each time")
    add("--corpus", metavar="DIR", help="keep there what reached new code (with atheris)")
    add("--random", action="store_true", help="without atheris, even if it is installed")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    logging.disable(logging.CRITICAL)
    try:
        if args.random:
            raise ImportError
        import atheris
    except ImportError:
        atheris = None
        import header_cases
    else:
        with atheris.instrument_imports(["wsgifile", "email._parseaddr"]):
            import header_cases
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        header_cases.make_files(directory)

        def one(data: bytes) -> None:
            case = header_cases.decode(data)
            try:
                header_cases.check(case, directory)
            except BaseException:
                print(f"{case!r}\n{traceback.format_exc()}", flush=True)
                raise

        if atheris is not None:
            options = [f"-max_total_time={args.minutes * 60:.0f}", "-max_len=200", "-timeout=10"]
            options += [f"-seed={args.seed}", f"-artifact_prefix={tempfile.gettempdir()}/"]
            if args.corpus:
                os.makedirs(args.corpus, exist_ok=True)
                options.append(args.corpus)
            atheris.Setup([sys.argv[0], *options], one)
            atheris.Fuzz()  # This call ends the process.
        source = random.Random(args.seed or None)
        end, count = time.monotonic() + args.minutes * 60, 0
        while time.monotonic() < end:
            one(source.randbytes(source.randrange(200)))
            count += 1
        print(f"{count:,} cases, nothing wrong")


if __name__ == "__main__":
    main()
