"""What a pruning method decides: PruneVid, and the methods that it is compared with."""
