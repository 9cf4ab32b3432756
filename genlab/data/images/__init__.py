"""Image sets as uint8 arrays, and everything between a folder of files and a batch."""
