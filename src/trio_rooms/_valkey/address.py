"""Where an engine is, and how to be let in: what a URL such as ``valkey://host:6379`` says."""

from __future__ import annotations

import ssl
from typing import Final, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

__all__ = ["Address", "Node"]

Node = tuple[str, int]
"""Host and port."""

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_SCHEMES: Final = {
    "valkey": (False, False),
    "valkeys": (True, False),
    "redis": (False, False),
    "rediss": (True, False),
    "valkey+sentinel": (False, True),
    "valkeys+sentinel": (True, True),
    "redis+sentinel": (False, True),
    "rediss+sentinel": (True, True),
}
"""Whether TLS is spoken, and whether Sentinels are asked first."""
_OPTIONS: Final = frozenset({"ca", "cert", "key", "sentinel_user", "sentinel_password"})


@attrs.frozen
class Address:
    """Where the server is, or the Sentinels that know."""

    nodes: tuple[Node, ...]
    """The server, or the Sentinels."""
    service: str = ""
    """What Sentinels call the servers; empty where none are asked."""
    user: str = ""
    """Empty for the default user."""
    password: str = attrs.field(default="", repr=False)
    """Empty to be let in without."""
    database: int = 0
    """The number of the database."""
    tls: bool = False
    """Whether TLS is spoken."""
    ca: str = ""
    """A file with certificates of authorities to trust; empty for those of the system."""
    cert: str = ""
    """A file with our certificate; empty for none."""
    key: str = attrs.field(default="", repr=False)
    """A file with its key; empty where that is in the same file."""
    sentinel_user: str = ""
    """The Sentinels' own user."""
    sentinel_password: str = attrs.field(default="", repr=False)
    """The Sentinels' own password; empty to be let in without."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL.

        ``valkey://[user:password@]host[:port][/database]``; ``valkeys://`` speaks TLS, with the options
        ``?ca=FILE&cert=FILE&key=FILE``; ``valkey+sentinel://[user:password@]host:port,host:port/SERVICE[/database]``
        (and ``valkeys+sentinel://``) asks Sentinels, which may have ``?sentinel_user=&sentinel_password=``
        of their own. ``redis`` is as good as ``valkey`` in each of them.

        Raises:
            ValueError: it is no such URL; the message says why, without the password.
        """
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise ValueError(f"the URL of an engine cannot be read: {_reason(error)}") from None
        try:
            tls, sentinel = _SCHEMES[parts.scheme]
        except KeyError:
            known = ", ".join(f"{one}://" for one in ("valkey", "valkeys", "valkey+sentinel", "redis"))
            # What stands before the ':' of host:port is read as a scheme.
            given = f"not with {parts.scheme:.50}://" if "://" in url else "as in valkey://127.0.0.1:6379"
            raise ValueError(f"the URL of an engine begins with one of {known}, {given}") from None
        if parts.fragment:
            raise ValueError("the URL of an engine has no '#'; in a password it is written as %23")
        user, password, hosts = _authority(parts)
        nodes = tuple(_node(one, _SENTINEL_PORT if sentinel else _PORT) for one in hosts.split(","))
        if len(nodes) > 1 and not sentinel:
            raise ValueError(
                "the URL of an engine names one server; several are Sentinels, as in valkey+sentinel://a,b,c/NAME"
            )
        path = [unquote(one) for one in parts.path.split("/")[1:] if one]
        service = ""
        if sentinel:
            if not path:
                raise ValueError(
                    "the URL of Sentinels ends with the name of the service, as in valkey+sentinel://a,b,c/NAME"
                )
            service = path.pop(0)
        return cls(
            nodes=nodes,
            service=service,
            user=user,
            password=password,
            database=_database(path),
            tls=tls,
            **_options(parts.query, tls=tls, sentinel=sentinel),
        )

    def __str__(self) -> str:
        """The URL without what is secret, for messages."""
        scheme = ("valkeys" if self.tls else "valkey") + ("+sentinel" if self.service else "")
        nodes = ",".join(name(one) for one in self.nodes)
        service = f"/{self.service}" if self.service else ""
        database = f"/{self.database}" if self.database else ""
        return f"{scheme}://{nodes}{service}{database}"

    def context(self) -> ssl.SSLContext | None:
        """What TLS is spoken with; None for none.

        Raises:
            OSError: a file cannot be read, or holds something else.
        """
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=self.ca or None)
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        return context


def name(node: Node) -> str:
    """As people write it."""
    host, port = node
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: ValueError) -> str:
    """What `urlsplit` says, unless it quotes the URL."""
    text = str(error)
    return text if "@" not in text and "'" not in text else "its host is malformed"


def _authority(parts: SplitResult) -> tuple[str, str, str]:
    """User, password and hosts."""
    secret, at, hosts = parts.netloc.rpartition("@")
    if not at:
        return "", "", hosts
    user, colon, password = secret.partition(":")
    if not colon or not password:
        raise ValueError(
            "before the '@' in the URL of an engine stand user and password, as in user:password@host, "
            "or :password@host for the default user"
        )
    return unquote(user), unquote(password), hosts


def _node(text: str, default: int) -> Node:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0:
        raise ValueError(f"a host in the URL of an engine is written as host:port, not as {text!r:.100}")
    return host, default if port is None else port


def _database(path: list[str]) -> int:
    if not path:
        return 0
    if len(path) > 1 or not (path[0].isascii() and path[0].isdigit()):
        raise ValueError(
            f"the URL of an engine ends with the number of a database, not with {'/'.join(path)!r:.100}"
        )
    return int(path[0])


def _options(query: str, *, tls: bool, sentinel: bool) -> dict[str, str]:
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError("what follows the '?' in the URL of an engine is written as option=value") from None
    options = dict(given)
    if unknown := options.keys() - _OPTIONS:
        known = ", ".join(sorted(_OPTIONS))
        raise ValueError(f"the URL of an engine has the option {min(unknown)!r:.50}; there are {known}")
    if len(given) > len(options):
        raise ValueError("an option is twice in the URL of an engine")
    if not tls and options.keys() & {"ca", "cert", "key"}:
        raise ValueError("the options ca, cert and key are for TLS: valkeys:// speaks it, valkey:// does not")
    if "key" in options and "cert" not in options:
        raise ValueError("the option key in the URL of an engine wants cert beside it")
    if not sentinel and options.keys() & {"sentinel_user", "sentinel_password"}:
        raise ValueError("the options sentinel_user and sentinel_password are for valkey+sentinel:// alone")
    return options
