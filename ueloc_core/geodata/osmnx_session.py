"""OSMnx's requests to a server: settings for a while, a bound on repetitions, clear errors.

OSMnx keeps its settings in module globals, asks a busy server again without end, and waits a
minute before it says that it is offline. `osmnx_session` puts the settings back afterwards,
bounds the repetitions and says at once what is wrong.
"""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from ueloc_core.errors import GeodataError

ATTEMPTS = 3
"""How often a server may say that it is busy; OSMnx waits 55 s in between."""

_BUSY = (429, 504)
_REMARK = re.compile(rb'\]\s*,\s*"remark"\s*:\s*"([^"]*)"')
_SHOWN = 200
_STATUS_S = 30.0


@dataclass(frozen=True)
class Server:
    """A server that OSMnx asks, and how its errors are told.

    Attributes
    ----------
    service
        Of OSMnx's settings: ``overpass`` or ``nominatim``.
    url
        Base address.
    variable
        Environment variable that sets it.
    asked_for
        What is wanted of it, and by which field.
    remedy
        What helps when it fails.
    """

    service: str
    url: str
    variable: str
    asked_for: str
    remedy: str

    @classmethod
    def overpass(cls, asked_for: str, remedy: str) -> "Server":
        """The Overpass server of ``UELOC_OVERPASS_URL``, else OSMnx's own."""
        server = cls._of("overpass", asked_for, remedy)
        return cls(**{**vars(server), "url": server.url.removesuffix("/interpreter")})

    @classmethod
    def nominatim(cls, asked_for: str, remedy: str) -> "Server":
        """The Nominatim server of ``UELOC_NOMINATIM_URL``, else OSMnx's own."""
        server = cls._of("nominatim", asked_for, remedy)
        return cls(**{**vars(server), "url": server.url.removesuffix("/search")})

    @classmethod
    def _of(cls, service: str, asked_for: str, remedy: str) -> "Server":
        import osmnx  # noqa: PLC0415 - takes seconds, and is needed for downloads alone

        variable = f"UELOC_{service.upper()}_URL"
        url = os.environ.get(variable) or getattr(osmnx.settings, f"{service}_url")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise GeodataError(
                "not the address of a server",
                where=f"{variable} = {url}",
                remedy="Give one such as https://overpass-api.de/api.",
            )
        return cls(service, url.rstrip("/"), variable, asked_for, remedy)

    def error(self, problem: str, *, remedy: str | None = None) -> GeodataError:
        """An error that names the server, what was asked of it, and the remedy."""
        return GeodataError(
            problem, where=f"{self.asked_for}: {self.url}", remedy=remedy or self.remedy
        )


class _Watch:
    """Looks at every answer before OSMnx does, and stops what OSMnx would repeat or swallow."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.busy = 0

    def __call__(self, response: Any, *_: Any, **__: Any) -> None:
        if response.is_redirect or response.url.partition("?")[0].endswith("/status"):
            return
        told = f"HTTP {response.status_code} {response.reason}".rstrip()
        if response.status_code in _BUSY:
            self.busy += 1
            if self.busy >= ATTEMPTS:
                response.close()
                raise self.server.error(f"the server is too busy ({told}, {self.busy} times)")
            return
        self.busy = 0
        if not response.ok:
            raise self.server.error(f"the server refuses ({told}): {_plain(response.text)}")
        remark = _REMARK.search(response.content[-2000:])  # such as: Query timed out
        if remark is not None:
            reason = _plain(remark[1].decode(errors="replace"))
            raise self.server.error(f"the server gave up ({reason})")


def _plain(text: str) -> str:
    """The beginning of an answer without its markup."""
    markup = r"<(style|script|head)\b.*?</\1>|<[^>]*>"
    bare = re.sub(markup, " ", text[:20_000], flags=re.DOTALL | re.IGNORECASE)
    return " ".join(bare.split())[:_SHOWN] or "no reason given"


@contextmanager
def osmnx_session(server: Server, **values: Any) -> Iterator[None]:
    """OSMnx with other settings and this server, and its errors as the project's.

    Raises
    ------
    GeodataError
        For whatever goes wrong with the requests within.
    """
    import osmnx  # noqa: PLC0415 - takes seconds, and is needed for downloads alone
    import requests  # noqa: PLC0415

    settings, resolve = osmnx.settings, socket.getaddrinfo
    watched = {**settings.requests_kwargs, "hooks": {"response": _Watch(server)}}
    agent = f"ueloc/{version('ueloc')} (OSMnx {version('osmnx')})"
    values |= {
        f"{server.service}_url": server.url,
        "requests_kwargs": watched,
        "http_user_agent": agent,
        "doh_url_template": None,  # ask no third party for the server's address
    }
    before = {name: getattr(settings, name) for name in (*values, "overpass_rate_limit")}
    try:
        for name, value in values.items():
            setattr(settings, name, value)
        if server.service == "overpass" and settings.overpass_rate_limit:
            settings.overpass_rate_limit = _has_slots(server)
        yield
    except requests.Timeout as error:
        waited_s = f"{settings.requests_timeout:g} s"
        raise server.error(f"the server did not answer within {waited_s}") from error
    except requests.ConnectionError as error:
        raise server.error(f"the server cannot be reached ({innermost_reason(error)})") from error
    except requests.RequestException as error:
        raise server.error(f"the answer broke off ({innermost_reason(error)})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise server.error(
            "the answer is not what such a server answers (no JSON, or cut off)"
        ) from error
    finally:
        for name, value in before.items():
            setattr(settings, name, value)
        socket.getaddrinfo = resolve  # OSMnx ties the server's name to one address


def _has_slots(server: Server) -> bool:
    """Whether the server tells when the next request may come; OSMnx then waits for that.

    A server without a limit, or without that page, is asked right away.
    """
    import requests  # noqa: PLC0415
    from osmnx import _http, settings  # noqa: PLC0415

    timeout_s = min(_STATUS_S, settings.requests_timeout)
    answer = requests.get(
        f"{server.url}/status",
        timeout=timeout_s,
        headers=_http._get_http_headers(),  # noqa: SLF001 - who asks, as in OSMnx's own requests
        **settings.requests_kwargs,
    )
    limit = re.search(r"^Rate limit: *(\d+)", answer.text, flags=re.MULTILINE)
    return limit is not None and int(limit[1]) > 0


def innermost_reason(error: Exception) -> str:
    """The innermost reason of a failed request, such as ``Connection refused``."""
    inner: BaseException = error
    while (deeper := inner.__cause__ or inner.__context__) is not None:
        inner = deeper
    found = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    return " ".join(str(found).split())[:_SHOWN]
