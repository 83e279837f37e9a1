"""The HTTP side: pages, one file each, and the site that they are on."""
