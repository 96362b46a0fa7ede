"""The backends that reach models over HTTP or through another library. Each file is imported where it is used."""
