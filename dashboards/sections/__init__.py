"""What each part of the life says of itself: a sentence, effects and compact tables, from the facts of that part."""
