"""Registry: models, their versions, base models and artefacts."""
