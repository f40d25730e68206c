"""kdnb: a course and a laboratory for knowledge distillation.

Start with ``notebooks/00_start_here.ipynb``; the README says how the code is laid out.
"""

__version__ = "0.1.0"
