"""Odin as its users have it: the real process, real sockets, a real broker and a real browser."""
