"""One loop for every method; the notebook owns the ``for``.

for epoch in train(method, batches, epochs=12, lr=0.05):
    history.append(epoch.losses | evaluate(method, test))
"""

from kdnb.train.evaluation import evaluate, logits_of
from kdnb.train.hardware import PRECISIONS
from kdnb.train.loop import Epoch, train
from kdnb.train.losslog import NotFinite
from kdnb.train.schedules import SCHEDULES, Schedule, cosine, drops, warm_cosine

__all__ = [
    "PRECISIONS",
    "SCHEDULES",
    "Epoch",
    "NotFinite",
    "Schedule",
    "cosine",
    "drops",
    "evaluate",
    "logits_of",
    "train",
    "warm_cosine",
]
