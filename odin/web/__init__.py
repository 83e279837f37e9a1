"""The HTTP side: plain twisted.web Resources, one file each."""
