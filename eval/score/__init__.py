"""Images -> one record per image, every score made once."""
