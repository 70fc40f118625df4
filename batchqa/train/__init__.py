"""Training: a base and rows become a checkpoint, by fine-tuning on gold answers or by distilling a teacher.

::

    training.py    train(): the run from start to checkpoint; read it first
    settings.py    what a run may be told
    gold_rows.py   files -> rows with gold spans, and the groups that are held out
    features.py    rows -> windows with gold places, by `run`'s own windowing; batches of them
    student.py     BASE -> the model to train
    teachers.py    checkpoints and bundles whose distributions are the target
    targets.py     the losses
    loop.py        steps, saved states, resuming
    validation.py  EM and F1 on held-out rows, by `run`'s own decoding
    card.py        the model card
"""
