"""What to fix in a training set, and what to add to it: pure functions of features, labels and held-out scores.

`curate.suggest` does all of it; the other modules do one kind each.
"""
