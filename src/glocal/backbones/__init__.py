"""Vision encoders behind one door."""
