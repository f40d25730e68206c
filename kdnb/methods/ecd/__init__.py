"""ECD: the method, and the links between student and teacher that are its alone."""

from kdnb.methods.ecd.method import ECD

__all__ = ["ECD"]
