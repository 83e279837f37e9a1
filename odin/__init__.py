"""Odin: a WebSocket fan-out server for live market data."""

__version__ = "0.1.0"
