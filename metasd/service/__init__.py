"""A compressed model behind HTTP: `metasd serve MODEL`."""

from .access import LOOPBACK, Access, read_token
from .app import Limits, create_app
from .protocol import ConnectionLimits
from .server import Certificate, serve

__all__ = [
    "LOOPBACK",
    "Access",
    "Certificate",
    "ConnectionLimits",
    "Limits",
    "create_app",
    "read_token",
    "serve",
]
