"""Who may do what, and how much. Pure: no reactor, no I/O; `now` is an argument."""
