"""Live streams in and out: cameras and relays that run for weeks, and everything that goes wrong with them."""
