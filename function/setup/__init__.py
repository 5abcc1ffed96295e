"""What other systems need beside this function, as texts to paste there."""
