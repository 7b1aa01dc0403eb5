"""The report of a version: what it is, how good it is, what to fix, for people who know no word of the trade."""
