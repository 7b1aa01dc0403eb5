"""What happens to every call before and after its handler: one link of the chain in each module.

`standard.py` puts them in their order and says why it is that one.
"""
