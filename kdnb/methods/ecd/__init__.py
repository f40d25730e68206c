"""ECD: the method, and the links between student and teacher, which no other method has."""

from kdnb.methods.ecd.method import ECD

__all__ = ["ECD"]
