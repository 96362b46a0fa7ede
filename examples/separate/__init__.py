"""A store, runners and an algorithm that are started separately. See README.md."""
