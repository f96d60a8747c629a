"""What is asked for: the study's specification, its search space and its sampler."""
