"""FFSD: the method, and the diversity target and the self-distillers, which no other method has."""

from kdnb.methods.ffsd.method import FFSD

__all__ = ["FFSD"]
