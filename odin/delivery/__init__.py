"""Who gets a message. Pure but for the Service in hub."""
