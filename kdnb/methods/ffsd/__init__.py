"""FFSD: the method, and the diversity target and self-distillers that are its alone."""

from kdnb.methods.ffsd.method import FFSD

__all__ = ["FFSD"]
