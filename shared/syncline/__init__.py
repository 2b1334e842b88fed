"""The library that every Syncline service shares; it knows no service."""
