"""Which internet addresses are local: a table of image URLs must not reach into the network it is read in."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.poolmanager import PoolManager
from urllib3.util.connection import create_connection

from ovseg_model.fetch_options import ImageError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

METADATA_ADDRESSES = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Addresses that look public and answer inside a cloud only; the other clouds' are link-local or private."""

NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_local_address(address: str) -> bool:
    """Tell whether an IP address is loopback, private, link-local, multicast, reserved or a cloud's metadata.

    An IPv6 address that carries an IPv4 address (mapped, 6to4, Teredo, NAT64) is local when that one is.
    """
    parsed = ipaddress.ip_address(address)
    return any(_is_local(each) for each in _carried(parsed) or [parsed])


def _is_local(address: Address) -> bool:
    return not address.is_global or address.is_multicast or address.is_reserved or address in METADATA_ADDRESSES


def _carried(address: Address) -> list[Address]:
    """The IPv4 addresses that packets to an IPv6 address are passed on to."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    nat64 = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None
    teredo = address.teredo[1] if address.teredo else None
    return [each for each in (address.ipv4_mapped, address.sixtofour, teredo, nat64) if each]


def connect_public(host: str, port: int, timeout_s: Any, socket_options: Any) -> socket.socket:
    """Resolve a host once and connect to one of the addresses that were checked, never to a local one.

    Raises ImageError `fetch_local_address` when the host has local addresses only, and OSError.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    addresses = [str(socket_address[0]) for *_, socket_address in found]
    public = [address for address in addresses if not is_local_address(address)]
    if not public:
        raise ImageError(
            "fetch_local_address", f"{host} is a local address ({addresses[0]}); --allow-local-hosts lets it in"
        )
    return _connect_first(public, port, timeout_s, socket_options)


def _connect_first(addresses: Sequence[str], port: int, timeout_s: Any, socket_options: Any) -> socket.socket:
    for address in addresses[:-1]:
        try:
            return create_connection((address, port), timeout_s, socket_options=socket_options)
        except TimeoutError:
            raise  # no time is left for another address
        except OSError:
            continue
    return create_connection((addresses[-1], port), timeout_s, socket_options=socket_options)


class _PublicConnection(HTTPConnection):
    """Connects to addresses that were checked; a name that resolves otherwise afterwards gains nothing."""

    def _new_conn(self) -> socket.socket:
        try:
            return connect_public(self.host, self.port, self.timeout, self.socket_options)
        except (socket.gaierror, UnicodeError) as error:
            raise NameResolutionError(self.host, self, socket.gaierror(str(error))) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "the connection timed out") from error
        except OSError as error:
            raise NewConnectionError(self, str(error.strerror)) from error


class _PublicTlsConnection(_PublicConnection, HTTPSConnection):
    pass


class _PublicPool(HTTPConnectionPool):
    ConnectionCls = _PublicConnection


class _PublicTlsPool(HTTPSConnectionPool):
    ConnectionCls = _PublicTlsConnection


def public_pools(**settings: Any) -> PoolManager:
    """A urllib3 PoolManager whose connections reach no local address; thread-safe."""
    manager = PoolManager(**settings)
    manager.pool_classes_by_scheme = {"http": _PublicPool, "https": _PublicTlsPool}
    return manager
