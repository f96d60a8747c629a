"""Who does the work: workers and the engines that start them."""
