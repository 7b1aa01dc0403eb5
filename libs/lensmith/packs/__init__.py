"""Base networks on their way to the platform: found in a folder, at a URL or on a hub, checked, and made into packs."""
