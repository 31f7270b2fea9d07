"""What recognise() finds, for an app_iter that is a file."""

from __future__ import annotations

from wsgifile.recognise import FileRegion, recognise


def region_of(app_iter: object) -> FileRegion:
    region = recognise(app_iter)
    assert region is not None
    return region
