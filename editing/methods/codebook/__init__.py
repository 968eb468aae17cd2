"""What methods with a codebook share: its entries while edits are added, the values they train, and what is measured."""
