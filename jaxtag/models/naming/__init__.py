"""Our parameters under the names that other libraries' files use: one declarative table each."""
