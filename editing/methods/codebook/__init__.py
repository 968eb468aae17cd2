"""What methods with a codebook share: its entries, the values they train, and what is measured on the model."""
