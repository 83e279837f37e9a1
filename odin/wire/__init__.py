"""What goes over the socket. Pure: no reactor, no clock, no I/O."""
