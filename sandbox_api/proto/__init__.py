"""The ``.proto`` files and what ``make protos`` generates from them."""
