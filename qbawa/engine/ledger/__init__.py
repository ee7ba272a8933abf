"""Every paid call: journalled before anything reads its answer, found again, and loaded into the lake."""
