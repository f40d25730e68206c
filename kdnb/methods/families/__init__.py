"""What several methods share.

``distillation`` is for one student and one frozen teacher, ``online`` for students that teach each other,
``leader`` for the fusion module and the leader that learns from it, and ``memory`` for one stored vector of
every training image.
"""
