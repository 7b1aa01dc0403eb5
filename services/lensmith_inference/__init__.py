"""The inference service: questions to models, and vectors of pictures. It holds no state of its own."""
