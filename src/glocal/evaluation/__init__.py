"""What a frozen encoder is worth, as a global and as a dense feature."""
