"""Rows -> images and their manifest; the price beforehand."""
