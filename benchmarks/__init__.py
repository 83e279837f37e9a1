"""`make bench`: Odin beside a straightforward Autobahn server, on this machine, in one run."""
