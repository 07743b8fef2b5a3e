"""What is wrong with a representation, why, and what to try."""
