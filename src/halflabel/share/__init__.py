"""A model shown to others: plots, card, push, export and demo."""
