"""The matrix of evaluations, and the engines that it runs on."""
