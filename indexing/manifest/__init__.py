"""The index in the bucket itself, so that other hosts know it without a LIST: see docs/manifest.md."""
