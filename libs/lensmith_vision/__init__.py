"""Images in, vectors and scores out: decoding, base networks, heads, training and evaluation.

A pure library: no gRPC, no database, no network. Each module says what it is for; nothing is re-exported here, so that
importing one part never loads another (decoding needs no ONNX Runtime, heads need no Pillow).
"""
