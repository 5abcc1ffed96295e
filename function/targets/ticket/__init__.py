"""One ticket per key, brought to say what its row last said."""
