"""How an image becomes views."""
