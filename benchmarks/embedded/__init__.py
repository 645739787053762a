"""The embedded model and the clips that come with the package."""
