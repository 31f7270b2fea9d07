"""A certificate, and clients that take any."""

from __future__ import annotations

import socket
import ssl

__all__ = ["CERTIFICATE", "wrapped"]

#: Of localhost, made for these tests.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgRRY6JVGaJleAd6N1
+tPk7rajv+n7ei+F6u0yXHwcUpqhRANCAASE612vXkUfuzkzwxiE+olSaffr3TxR
tBmCtDd8irctlVDOWhIHMdj+qqQgPjqQczULEce+YR/eyQk6Gt2p1z9c
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBgDCCASWgAwIBAgIUGIkVWU8CNw8QQ8jkwpJg+6DkTrkwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNjAyMTYxNFoYDzIxMjYxMTAy
MDIxNjE0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASE612vXkUfuzkzwxiE+olSaffr3TxRtBmCtDd8irctlVDOWhIHMdj+
qqQgPjqQczULEce+YR/eyQk6Gt2p1z9co1MwUTAdBgNVHQ4EFgQU/yIYH/I6Mr27
UYNBjlJ8qi3i2lYwHwYDVR0jBBgwFoAU/yIYH/I6Mr27UYNBjlJ8qi3i2lYwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEA22qbcPBxoOa5H9QCgDG7
/hyDhdmpufCRAjEsgO8icZYCIQCZV/t+qNwvfyy59ism5+Lhs1Ua2twPiTAbSynk
ZgtT/Q==
-----END CERTIFICATE-----
"""


def wrapped(sock: socket.socket) -> ssl.SSLSocket:
    """The client's end of an encrypted connection."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(sock)
