"""What plans would cost, side by side, before any of them is built."""
