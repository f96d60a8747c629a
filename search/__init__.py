"""Zero-TPrune Search: finds token-pruning schedules with the best accuracy for each throughput."""
