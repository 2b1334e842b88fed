"""The programs of Syncline. They share the library `syncline` and never import each other."""
