"""Attacks: what a hostile client can do, bounded in time, against the real server.

`field` has the ground they are fought on: the server, its costs, and a neighbour whose round trips
are watched. `make attack` prints the figures of all; as tests they count what an attack costs in
heartbeats of that same server, in bytes kept, or in the order of answers, never in milliseconds.
"""
