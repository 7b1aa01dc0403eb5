"""Fine-tuning: a base network learns on, as a whole, from an app's own pictures.

`job`, `outcome` and `judgement` need no torch: they say what is to be done, and judge what came out.
Everything else runs in a process of its own (``python -m lensmith_vision.fine_tune FOLDER``, or under ``torchrun``)
and needs the extra ``lensmith[finetune]``.
"""
