"""The public Dassl interface that CoOp-family code is written against, without Dassl's dependencies and defects.

A clean implementation: names, defaults, printed lines, file layout and random draws are Dassl's, the code is not. Left
out are its built-in trainers, datasets and networks, which prompt tuning does not use.
"""

__version__ = "0.6.3"  # the release whose behaviour is reproduced
