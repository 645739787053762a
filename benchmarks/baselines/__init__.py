"""The methods that PruneVid is compared with, each carried out by the engine that prunes for it."""
