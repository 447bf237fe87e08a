"""Packs: batches of images of several sizes that fill a budget of tokens, for attention of variable length."""
