from __future__ import annotations

import re

import pytest

from trio_rooms._valkey import Address


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("valkey://host", Address((("host", 6379),)), "valkey://host:6379"),
        ("redis://host:1/2", Address((("host", 1),), database=2), "valkey://host:1/2"),
        ("valkey://[::1]:7000/", Address((("::1", 7000),)), "valkey://[::1]:7000"),
        (
            "valkey://ana:p%40ss%2F@host",
            Address((("host", 6379),), user="ana", password="p@ss/"),
            "valkey://host:6379",
        ),
        ("valkey://:p:w@host", Address((("host", 6379),), password="p:w"), "valkey://host:6379"),
        ("valkeys://host", Address((("host", 6379),), tls=True), "valkeys://host:6379"),
        (
            "rediss://host?ca=/a%20b.pem&cert=c&key=k",
            Address((("host", 6379),), tls=True, ca="/a b.pem", cert="c", key="k"),
            "valkeys://host:6379",
        ),
        (
            "valkey+sentinel://a:1,b,[::2]:3/main",
            Address((("a", 1), ("b", 26379), ("::2", 3)), service="main"),
            "valkey+sentinel://a:1,b:26379,[::2]:3/main",
        ),
        (
            "valkeys+sentinel://u:p@a/main/4?sentinel_password=s&sentinel_user=v",
            Address(
                (("a", 26379),),
                service="main",
                user="u",
                password="p",
                database=4,
                tls=True,
                sentinel_user="v",
                sentinel_password="s",
            ),
            "valkeys+sentinel://a:26379/main/4",
        ),
    ],
)
def test_what_a_url_says(url: str, address: Address, shown: str) -> None:
    """Each part of it; what is shown has nothing secret."""
    assert Address.parse(url) == address
    assert str(address) == shown
    assert not address.password or address.password not in repr(address)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "begins with one of valkey://, valkeys://"),
        ("host:6379", "begins with one of .* as in valkey://127.0.0.1:6379"),
        ("127.0.0.1:6379", "as in valkey://127.0.0.1:6379"),
        ("http://hunter2@host", "not with http://"),
        ("valkey://", "is written as host:port"),
        ("valkey://:6379", "is written as host:port"),
        ("valkey://host:0", "is written as host:port"),
        ("valkey://host:99999", "is written as host:port"),
        ("valkey://host:port", "is written as host:port"),
        ("valkey://[::1", "cannot be read"),
        ("valkey://hunter2@host", "stand user and password"),
        ("valkey://ana:@host", "stand user and password"),
        ("valkey://ana:hunter2@[::1", "cannot be read"),
        ("valkey://ana:hunter2#3@host", "written as %23"),
        ("valkey://ana:hunter2@ho st:a", "is written as host:port"),
        ("valkey://host/one", "number of a database"),
        ("valkey://host/1/2", "number of a database"),
        ("valkey://host/\N{SUPERSCRIPT TWO}", "number of a database"),
        ("valkey://a,b", "names one server"),
        ("valkey+sentinel://a,b", "ends with the name of the service"),
        ("valkey+sentinel://a,,b/main", "is written as host:port"),
        ("valkey://host?db=3", "has the option 'db'; there are ca, cert"),
        ("valkey://host?ca=x", "are for TLS"),
        ("valkeys://host?key=x", "wants cert beside it"),
        ("valkeys://host?ca", "written as option=value"),
        ("valkeys://host?ca=x&ca=y", "is twice"),
        ("valkey://host?sentinel_user=x", r"for valkey\+sentinel:// alone"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, text: str) -> None:
    """With the reason, and without what may be a password."""
    with pytest.raises(ValueError, match=text) as caught:
        Address.parse(url)
    assert not re.search("hunter", str(caught.value))
