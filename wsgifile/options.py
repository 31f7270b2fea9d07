"""What the constructor or the ini configures, checked once. Nothing of a request is in here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .blocks import DEFAULT_BLOCK_SIZE, check_function, check_int, check_seconds
from .offload import Offload, Proxies, Redirect
from .transfer import Transfer

__all__ = ["Options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of :class:`~wsgifile.FileWrapperMiddleware`, which explains them."""

    block_size: int = DEFAULT_BLOCK_SIZE
    ranges: bool = True
    validators: bool = True
    #: None: by the type of the file.
    read_ahead: int | None = None
    offload: Offload | None = None
    #: None: every request comes through the proxy.
    trusted_proxies: Proxies | None = None
    on_sent: Callable[[Transfer], object] | None = None
    send_timeout: float = 60.0
    #: None: by the limit of file descriptors.
    background: int | None = None
    sendfile: bool = True

    def __post_init__(self) -> None:
        check_int("block_size", self.block_size, 1)
        if self.read_ahead is not None:
            check_int("read_ahead", self.read_ahead, 0)
        check_seconds("send_timeout", self.send_timeout)
        if self.background is not None:
            check_int("background", self.background, 0)
        for name in ("ranges", "validators", "sendfile"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, not {value!r}")
        if self.offload is not None and not isinstance(self.offload, Offload):
            raise TypeError(
                f"offload must be XAccelRedirect, XSendfile or Redirect, not {self.offload!r}"
            )
        if self.trusted_proxies is not None and self.offload is None:
            raise ValueError("trusted_proxies is for offload, which is not set")
        if self.trusted_proxies is not None and isinstance(self.offload, Redirect):
            raise ValueError("trusted_proxies is for a proxy, and with Redirect there is none")
        if self.on_sent is not None:
            check_function("on_sent", self.on_sent)
