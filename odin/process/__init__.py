"""What concerns the process: its reactor, its signals, its memory."""
