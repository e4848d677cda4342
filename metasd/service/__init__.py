"""A compressed model behind HTTP: `metasd serve MODEL`."""

from .app import Limits, create_app
from .server import serve

__all__ = ["Limits", "create_app", "serve"]
