"""The methods that PruneVid is compared with, one file each, behind the interface of ``prune``."""
